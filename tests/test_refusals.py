"""Every refusal is documented, points to the author's own line, and names a remedy that works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import FxscaleError, SizeError, UnsupportedModelError
from tests.late_refusals import CALLS, LATE
from tests.passes.networks import Around
from tests.passes.test_carried_state import Initialised
from tests.pixel_refusals import PIXELS
from tests.reasons import ROOT, reasons
from tests.refusal_cases import (
    ARGUMENTS,
    KERNELS,
    LAYERS,
    NAMED,
    OPERATORS,
    Build,
    Case,
    body,
)
from tests.refusal_networks import scripted
from tests.size_refusals import SIZES

PAGE = (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| reason", "|--"))
]


def unpooled(x: Tensor, size: Any) -> Tensor:
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, indices, 2, output_size=size)


def test_the_page_lists_every_reason_once() -> None:
    documented = [row[0] for row in ROWS]
    expected = [reason.text for reason in reasons()]
    assert len(documented) == len(set(documented)), "docs/refusals.md lists a reason twice"
    assert sorted(set(expected) - set(documented)) == [], "add these to docs/refusals.md"
    assert sorted(set(documented) - set(expected)) == [], "drop these from docs/refusals.md"


def test_the_page_gives_the_remedies_of_the_source() -> None:
    source: dict[str, set[str]] = {}
    for reason in reasons():
        source.setdefault(reason.text, set()).add(reason.remedy)
    for text, remedy, *_ in ROWS:
        assert remedy in {r or "(in the message)" for r in source[text]}, text


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


class Doubling(Doubled):
    """The remedy for a custom function: a handler for its class."""


@fxscale.register(Doubling)
def doubling(call: Any) -> Any:
    return call.annotation("input")


def lazy(*, called: bool) -> Build:
    def build() -> nn.Module:
        model = Around(lambda m, x: m.next(x), next=nn.LazyConv2d(4, 3))
        if called:
            model(torch.zeros(2, 3, 12, 12))
        return model

    return build


class Spectrum(nn.Module):
    """An operator that the compiler does not know, in a registered module."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).abs()


@fxscale.register(Spectrum)
def spectrum(call: Any) -> Any:
    return call.annotation("input")


class WithExtraState(nn.Module):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


def sampled(m: Any, x: Tensor, size: Any) -> Tensor:
    theta = m.fc(x.flatten(1)).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, size, False), align_corners=False)


def two_sizes(x: Tensor, y: Tensor) -> Tensor:
    return x.unfold(2, 6, 4).mean((2, 4)) + y.unfold(2, 4, 2).mean((2, 4))


def blocks_and_pool(x: Tensor, y: Tensor) -> Tensor:
    return x.unfold(2, 6, 4).mean((2, 3, 4)) + F.max_pool2d(y, 2).mean((2, 3))


def hooked(*, leaf: bool) -> nn.Module:
    block = nn.Sequential(nn.Conv2d(4, 4, 3)) if not leaf else nn.Conv2d(4, 4, 3)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = block

        def forward(self, x: Tensor) -> Any:
            return self.inner(x)

    module = Around(lambda m, x: m.block(x), block=Block())
    (module.block.inner if leaf else module.block).register_forward_hook(lambda m, a, o: None)
    return module


PAIRS: dict[str, tuple[Build, Build]] = {
    "shifts a feature map by pixels": (
        body(lambda m, x: x + torch.roll(x, (1, 1), (2, 3))),
        body(lambda m, x: x + torch.roll(x, 1, 1)),
    ),
    "takes windows of two sizes out of one padded map": (
        body(lambda m, x: two_sizes(*[F.pad(x, (0, 0, 1, 1))] * 2)),
        body(lambda m, x: two_sizes(F.pad(x, (0, 0, 1, 1)), F.pad(x, (0, 0, 1, 1)))),
    ),
    "… runs over a padded map of which overlapping windows are taken": (
        body(lambda m, x: blocks_and_pool(*[F.pad(x, (0, 0, 1, 1))] * 2)),
        body(lambda m, x: blocks_and_pool(F.pad(x, (0, 0, 1, 1)), F.pad(x, (0, 0, 1, 1)))),
    ),
    "the operator … is not known to the compiler": (
        body(lambda m, x: torch.fft.fft2(x).abs()),
        body(lambda m, x: m.spectrum(x), spectrum=Spectrum()),
    ),
    "… is a torch.autograd.Function, whose backward a trace would lose": (
        body(lambda m, x: Doubled.apply(x)),
        body(lambda m, x: Doubling.apply(x)),
    ),
    "Python asks for the contents of the tensor … (data-dependent control flow)": (
        body(lambda m, x: x if x.sum() > 0 else -x),
        body(lambda m, x: torch.where(x.mean() > 0, x, -x)),
    ),
    "the module … has hooks, which would not run in the pre-train network": (
        lambda: hooked(leaf=False),
        lambda: hooked(leaf=True),
    ),
    "returns indices into the feature map": (
        body(lambda m, x: F.max_pool2d(x, 2, return_indices=True)[1]),
        body(lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    ),
    "its indices are those of no max pool": (
        body(lambda m, x: F.max_unpool2d(x, torch.zeros_like(x).long(), 2)),
        body(lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    ),
    "makes a map of another size than the one that was pooled": (
        body(lambda m, x: unpooled(x, (13, 13))),
        body(lambda m, x: unpooled(x, x.shape[2:])),
    ),
    "pools over a flattened feature map": (
        body(lambda m, x: F.max_pool1d(x.flatten(1)[:, None], 2)),
        body(lambda m, x: F.max_pool2d(x, (1, 2)).flatten(1)),
    ),
    "… meets the pixels of a flattened map, pooled as …": (
        body(lambda m, x: m.fc(F.avg_pool1d(x.flatten(2), 4)), fc=nn.Linear(36, 5)),
        body(lambda m, x: m.fc(F.avg_pool2d(x, 2).flatten(2)), fc=nn.Linear(36, 5)),
    ),
    "takes windows out of a flattened feature map": (
        body(lambda m, x: x.flatten(2).unfold(2, 4, 4).amax(3)),
        body(lambda m, x: x.unfold(3, 4, 4).amax(4).flatten(2)),
    ),
    "a kernel runs over a flattened feature map": (
        body(lambda m, x: m.next(x.flatten(2)), next=nn.Conv1d(4, 4, 3)),
        body(lambda m, x: m.next(x).flatten(2), next=nn.Conv2d(4, 4, 3)),
    ),
    "output_size is given at the call": (
        body(lambda m, x: m.up(x, output_size=[24, 24]), up=nn.ConvTranspose2d(4, 4, 3, 2, 1)),
        body(lambda m, x: m.up(x), up=nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1)),
    ),
    "tensors meet whose dimensions are made of different axes": (
        body(lambda m, x: x.flatten(1) + x.permute(0, 2, 3, 1).flatten(1)),
        body(lambda m, x: x.flatten(1) + x.flip(2).flatten(1)),
    ),
    "picks one pixel of a feature map by its index": (
        body(lambda m, x: x[:, :, 3, 4]),
        body(lambda m, x: x[:, :, 0, -1] + F.adaptive_avg_pool2d(x, 1).flatten(1)),
    ),
    "splits a feature map along a spatial axis": (
        body(lambda m, x: x.split([5, 7], 2)[0]),
        body(lambda m, x: x.split([6, 6], 2)[0]),
    ),
    "crops a feature map and skips pixels": (
        body(lambda m, x: x[:, :, 2:-2:2]),
        body(lambda m, x: x[:, :, 2:-2][:, :, ::2]),
    ),
    "slices a flattened feature map": (
        body(lambda m, x: x.flatten(2)[:, :, 5:50]),
        body(lambda m, x: x[:, :, 1:-1].flatten(2)),
    ),
    "crops a flattened feature map": (
        body(lambda m, x: F.pad(x.flatten(2), (-1, -1))),
        body(lambda m, x: F.pad(x, (-1, -1)).flatten(2)),
    ),
    "resizes a map of one pixel": (
        body(lambda m, x: F.interpolate(F.adaptive_avg_pool2d(x, 1), scale_factor=2)),
        body(lambda m, x: x + F.adaptive_avg_pool2d(x, 1)),
    ),
    "makes a grid of a size that is no feature map's": (
        body(lambda m, x: sampled(m, x, (x.shape[0], 4, 12, 12)), fc=nn.Linear(576, 6)),
        body(lambda m, x: sampled(m, x, x.size()), fc=nn.Linear(576, 6)),
    ),
    "the weight is computed, not a parameter": (
        body(lambda m, x: F.linear(x.flatten(1), m.fc.weight.tanh()), fc=nn.Linear(576, 2)),
        body(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(576, 2)),
    ),
    "the linear layer … reads two different feature maps": (
        body(
            lambda m, x: m.fc(x[:, :2].flatten(1)) + m.fc(F.max_pool2d(x, (2, 1)).flatten(1)),
            fc=nn.Linear(288, 2),
        ),
        body(
            lambda m, x: m.fc(x[:, :2].flatten(1)) + m.gc(F.max_pool2d(x, (2, 1)).flatten(1)),
            fc=nn.Linear(288, 2),
            gc=nn.Linear(288, 2),
        ),
    ),
    "a convolution covers the whole map in one call and not in another": (
        body(lambda m, x: [m.next(x), m.next(F.max_pool2d(x, 2))], next=nn.Conv2d(4, 4, 6)),
        body(
            lambda m, x: [m.next(x), m.last(F.max_pool2d(x, 2))],
            next=nn.Conv2d(4, 4, 6),
            last=nn.Conv2d(4, 4, 6),
        ),
    ),
    "accumulates over the pixels of a feature map, whose number changes": (
        body(lambda m, x: torch.cumsum(x, 2)),
        body(lambda m, x: torch.cumsum(x, 1)),
    ),
    "drops a feature map's axis because it has one pixel in the target": (
        body(lambda m, x: F.max_pool2d(x, 3, 12, 1).squeeze(3)),
        body(lambda m, x: F.adaptive_max_pool2d(x, (1, 1)).squeeze(3)),
    ),
    "its features or its batch are made of pixels, whose number changes": (
        body(lambda m, x: m.rnn(x.mean(1))[0], rnn=nn.GRU(12, 3, batch_first=True)),
        body(
            lambda m, x: m.rnn(m.fc(x.mean(1)))[0],
            fc=nn.Linear(12, 5),
            rnn=nn.GRU(5, 3, batch_first=True),
        ),
    ),
    "a call of forward depends on what the last one left in an attribute (one of …)": (
        body(lambda m, x: m.part(x), part=Initialised()),
        body(lambda m, x: m.part(x), part=Initialised(ready=True)),
    ),
    "a hook of … would not be in the graph": (
        body(lambda m, x: (x.register_hook(print), x)[1]),
        body(lambda m, x: x),
    ),
    "forward goes another way where no gradients are recorded": (
        body(lambda m, x: 2 * x if torch.is_grad_enabled() else x),
        body(lambda m, x: 2 * x if m.training else x),
    ),
    "forward makes … itself, of which the model knows nothing": (
        body(lambda m, x: nn.Conv2d(4, 4, 3)(x)),
        body(lambda m, x: m.next(x), next=nn.Conv2d(4, 4, 3)),
    ),
    "the trace cannot be run: …": (
        body(lambda m, x: x + torch.autograd.grad(x.sum(), x)[0]),
        body(lambda m, x: x + 1),
    ),
    "forward assigns to …, which the next call would not find": (
        body(
            lambda m, x: (setattr(m.norm, "running_mean", 0.9 * m.norm.running_mean), x)[1],
            norm=nn.BatchNorm2d(4),
        ),
        body(
            lambda m, x: (m.norm.running_mean.mul_(0.9), x)[1],
            norm=nn.BatchNorm2d(4),
        ),
    ),
    "… has parameters whose shape is not known yet": (lazy(called=False), lazy(called=True)),
    "the attribute … of a tensor": (
        body(lambda m, x: x * x.real),
        body(lambda m, x: x * x),
    ),
    "unusual arguments": (
        body(lambda m, x: torch.var(input=x, dim=(2, 3))),
        body(lambda m, x: torch.var(x, dim=(2, 3))),
    ),
    "the tensor … is used in two ways that scale differently (… as …, …)": (
        body(
            lambda m, x: m.fc(x.flatten(1)) + (x.flatten(1) * m.fc.weight).sum(1, keepdim=True),
            fc=nn.Linear(576, 1),
        ),
        body(
            lambda m, x: m.fc(x.flatten(1)) + (x.flatten(1) * m.gc.weight).sum(1, keepdim=True),
            fc=nn.Linear(576, 1),
            gc=nn.Linear(576, 1),
        ),
    ),
    "the forward of … draws random numbers behind its last node": (
        body(lambda m, x: (x.relu(), torch.rand(1))[0]),
        body(lambda m, x: x.relu()),
    ),
    "the state dict holds …, which is a …, not a tensor": (
        body(lambda m, x: x, extra=WithExtraState()),
        body(lambda m, x: x),
    ),
}


CASES: dict[str, Case] = {
    **PIXELS,
    **{reason: Case(*pair) for reason, pair in PAIRS.items()},
    **ARGUMENTS,
    **LAYERS,
    **OPERATORS,
    **KERNELS,
    **LATE,
}
FILES = (
    "test_refusals.py",
    "refusal_cases.py",
    "refusal_networks.py",
    "pixel_refusals.py",
    "late_refusals.py",
    "networks.py",
    "functional.py",
    "test_carried_state.py",
    "test_distances.py",
    "deform_conv.py",  # torchvision's, the innermost code that is not torch's
)
WITHOUT_A_PLACE = (
    *ARGUMENTS,
    "the state dict holds …, which is a …, not a tensor",
    "… cannot be copied: …",
    "… has parameters whose shape is not known yet",
    "no convolution is reached from the model's inputs",
    "the tensor … is used in two ways that scale differently (… as …, …)",
    "the forward of … draws random numbers behind its last node",
)


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("reason", CASES)
def test_a_refusal_points_to_the_code_and_its_remedy_works(reason: str) -> None:
    case = CASES[reason]
    options = {"input_size": 8, "target_size": 12, **case.options}
    parts = map(re.escape, reason.split("…"))
    with pytest.raises(UnsupportedModelError, match=".*".join(parts)) as caught:
        fxscale.downscale(case.refused(), **options)
    error = caught.value
    assert error.remedy
    assert f"Remedy: {error.remedy}." in str(error)
    if reason not in WITHOUT_A_PLACE:
        assert error.node or error.module
        if error.source is not None:
            path, _, line = error.source.rpartition(":")
            assert Path(path).name in FILES
            assert int(line) > 0
            assert error.source in str(error)
        elif error.node and reason not in KERNELS:  # of those, the node's name stands in the reason
            pytest.fail("no line of code is named")
    remedy = dict(case.remedy)
    if remedy.get("keep") == NAMED:
        named = re.search(r"keep=\['(.*?)'\]", error.remedy)
        assert named is not None
        remedy["keep"] = [named[1]]
    assert fxscale.downscale((case.mended or case.refused)(), **{**options, **remedy})


@pytest.mark.parametrize("reason", SIZES)
def test_a_size_that_is_refused_sends_to_one_that_works(reason: str) -> None:
    case = SIZES[reason]
    options = {"input_size": 8, "target_size": 12, **case.options}
    with pytest.raises(SizeError, match=".*".join(map(re.escape, reason.split("…")))) as caught:
        fxscale.downscale(case.refused(), **options)
    remedy = dict(case.remedy)
    if remedy.get("input_size") == NAMED:
        remedy["input_size"] = int(str(caught.value).rpartition("that works is ")[2])
        assert remedy["input_size"] > options["input_size"]
    assert fxscale.downscale(case.refused(), **{**options, **remedy})


@pytest.mark.parametrize("reason", CALLS)
def test_a_call_that_is_refused_says_which_is_not(reason: str) -> None:
    case = CALLS[reason]
    small = fxscale.downscale(case.network(), 8, target_size=12)
    pattern = ".*".join(map(re.escape, reason.split("…")))
    with pytest.raises(UnsupportedModelError, match=pattern) as caught:
        case.refused(small)
    assert caught.value.remedy
    case.mended(small)


def test_the_page_marks_the_remedies_that_are_tested() -> None:
    assert sorted([*CASES, *SIZES, *CALLS]) == sorted(row[0] for row in ROWS if row[2] == "here")


def test_keep_is_a_remedy_for_kernels_that_cannot_change() -> None:
    """A kernel that is cut in two stays, and the rest of the network shrinks."""

    def cut(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, m.next.weight[:, :, 1:, 1:] * m.next.weight[:, :, :-1, :-1])

    model = Around(cut, next=nn.Conv2d(4, 4, 4))
    with pytest.raises(FxscaleError, match=r"Remedy: .*keep"):
        fxscale.downscale(model, 8, target_size=12)


def test_what_torch_raises_is_never_bare() -> None:
    """A network that does not run at its own size; `LATE` has one that fails at the small one."""

    too_wide = Around(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(7, 2))
    with pytest.raises(UnsupportedModelError, match=r"failed at the target size: .*\[2, 576\]"):
        fxscale.downscale(too_wide, 8, target_size=12)


def test_what_is_scripted_and_never_called_is_no_reason() -> None:
    spare = scripted(nn.Conv2d(4, 4, 1))
    assert fxscale.downscale(Around(lambda m, x: x, spare=spare), 8, target_size=12)


def test_a_scripted_model_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="the model is compiled by TorchScript"):
        fxscale.downscale(scripted(nn.Conv2d(3, 4, 1)), 8, target_size=12)
