"""Tracing: what modules do in `forward` besides arithmetic. One small network each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.fxscale.checks import assert_compiles
from tests.fxscale.small_networks import Net, pair


@dataclass
class Detections:
    scores: Tensor
    boxes: Tensor | None = None


class Lookup(nn.ModuleDict):
    def forward(self, x: Tensor, name: str) -> Tensor:
        out: Tensor = self[name](x)
        return out


def lists_of_features(m: Any, x: Tensor) -> list[Tensor]:
    features = [x]
    for stage in m.stages:
        features.append(stage(features[-1]))
    features[0] = features[0].relu()
    return features[::-1]


def dicts_of_features(m: Any, x: Tensor) -> dict[str, Any]:
    features = {"stem": x}
    for name, stage in m.stages.named_children():
        features[name] = stage(features["stem"])
    features.update(last=[f.mean((2, 3)) for f in features.values()])
    return {key: value for key, value in features.items() if key != "stem"}


def in_place(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.mul_(0.5).add_(1)
    y[:, 1:] -= 3
    y[:, 0] = y[:, 1] * 2
    return F.relu(y, inplace=True)


def in_place_on_a_view(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    left = y[:, :2]
    left.add_(y[:, 2:])
    y[:, 3].zero_()
    return y


def ignored_result(m: Any, x: Tensor) -> Tensor:
    m.stages(x)
    m.norm(x)  # moves the running statistics, whatever becomes of its result
    return x


def keyword_arguments(m: Any, x: Tensor) -> Tensor:
    def scaled(x: Tensor, *parts: Tensor, scale: float = 2.0, skip: Tensor | None = None) -> Tensor:
        x = x * scale + sum(parts)
        return x if skip is None else x + skip

    return scaled(scaled(x, x, x, scale=0.5), skip=x)


def own_module_list(m: Any, x: Tensor) -> Tensor:
    for index in range(len(m.stages)):
        x = m.stages[index](x)
    return x if not isinstance(m.stages, nn.ModuleDict) else -x


BODIES: dict[str, tuple[Callable[..., Any], dict[str, nn.Module]]] = {
    "list of features": (lists_of_features, {"stages": pair(4, 4)}),
    "dict of features": (dicts_of_features, {"stages": nn.Sequential(pair(4, 4), pair(4, 5))}),
    "dataclass": (lambda m, x: Detections(x.mean((2, 3)), boxes=x), {}),
    "dataclass with None": (lambda m, x: Detections(scores=x.mean((2, 3))), {}),
    "nested outputs": (lambda m, x: {"a": (x, [x.relu(), {"b": x.mean()}])}, {}),
    "module lookup": (
        lambda m, x: m.heads(x, "b") + m.heads["a"](x),
        {"heads": Lookup({"a": pair(4, 4), "b": pair(4, 4)})},
    ),
    "module list": (own_module_list, {"stages": pair(4, 4)}),
    "checkpoint": (
        lambda m, x: checkpoint(m.stages, x, use_reentrant=False),
        {"stages": pair(4, 4)},
    ),
    "reentrant checkpoint": (
        lambda m, x: checkpoint(m.stages, x, use_reentrant=True),
        {"stages": pair(4, 4)},
    ),
    "checkpoint of a sequence": (
        lambda m, x: checkpoint_sequential(m.stages, 2, x, use_reentrant=False),
        {"stages": pair(4, 4)},
    ),
    "checkpoint of a closure": (
        lambda m, x: checkpoint(lambda a, b: m.stages(a) + b, x, x.relu(), use_reentrant=False),
        {"stages": pair(4, 4)},
    ),
    "in place": (in_place, {}),
    "in place on a view": (in_place_on_a_view, {}),
    "unused results": (ignored_result, {"stages": pair(4, 4), "norm": nn.BatchNorm2d(4)}),
    "keyword arguments": (keyword_arguments, {}),
    "called twice": (lambda m, x: m.stages(m.stages(x)), {"stages": pair(4, 4)}),
    "weights shared between modules": (lambda m, x: m.b(m.a(x)), dict.fromkeys("ab", pair(4, 4))),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", BODIES)
def test_modules(name: str) -> None:
    body, modules = BODIES[name]
    assert_compiles(Net(body, **modules), 12, 8)


class Lazy(nn.Module):
    """Builds a buffer at its first call, as positional encodings do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.scale is None or self.scale.shape[0] != x.shape[1]:
            self.scale = torch.linspace(0.5, 1, x.shape[1])[:, None, None]
        return x * self.scale


def test_lazily_built_buffers() -> None:
    assert_compiles(Lazy(), 12, 8)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, image: Tensor, depth: Tensor, *, flip: bool = False) -> tuple[Tensor, Tensor]:
        a, b = self.left(image), self.right(depth)
        return (b, a + b) if flip else (a, a * b)


@pytest.mark.parametrize("arguments", [{}, {"flip": True}])
def test_several_inputs_and_outputs_and_constants(arguments: dict[str, Any]) -> None:
    assert_compiles(TwoInputs(), 12, 8, shapes=(3, 1), concrete_args=arguments)


class OptionalInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_features: bool = False
    ) -> Tensor | dict[str, Tensor]:
        x = self.conv(x)
        if mask is not None:
            x = x * mask
        return {"features": x} if return_features else x


def test_optional_inputs() -> None:
    assert_compiles(OptionalInput(), 12, 8)
    assert_compiles(OptionalInput(), 12, 8, concrete_args={"return_features": True})
    assert_compiles(OptionalInput(), 12, 8, shapes=(3, 4))


class Ignored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    @torch.jit.ignore
    def gate(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @torch.jit.unused
    def helper(self, x: Tensor) -> Tensor:
        return self.gate(x) + 1

    @torch.jit.export
    def exported(self, x: Tensor) -> Tensor:
        return self.helper(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.exported(self.conv(x))


def test_decorated_for_scripting() -> None:
    assert_compiles(Ignored(), 12, 8)


def swish(x: Tensor) -> Tensor:
    return torch.relu(x)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch call it deprecated
        monkeypatch.setitem(globals(), "swish", torch.jit.script(swish))


def test_scripted_helpers(scripted: None) -> None:
    assert isinstance(swish, torch.jit.ScriptFunction)
    assert_compiles(Net(lambda m, x: swish(x)), 12, 8)
    assert isinstance(swish, torch.jit.ScriptFunction)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 5


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return Double.apply(x)


def test_custom_autograd_functions_are_refused_and_can_be_registered() -> None:
    from fxscale.passes.ops import registry

    model = Net(lambda m, x: m.twice(x), twice=Doubled())
    with pytest.raises(UnsupportedModelError, match="whose backward a trace would lose") as error:
        fxscale.downscale(model, 8, target_size=12)
    assert "fxscale.register" in error.value.remedy
    known = dict(registry._REGISTRY)
    try:
        fxscale.register(Doubled)(lambda call: call.annotation("input"))
        assert_compiles(model, 12, 8)
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(known)


class Opaque(nn.Module):
    """Cannot be entered: it looks at its input's values."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


class Behind(nn.Module):
    """An opaque module behind the pool, where no spatial size reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.opaque = Opaque()

    def forward(self, x: Tensor) -> Any:
        return self.opaque(self.conv(x).mean((2, 3)).detach()) + self.conv(x).mean((2, 3))


def test_opaque_modules_that_look_at_values() -> None:
    with pytest.raises(UnsupportedModelError, match="asks for the contents of the tensor"):
        fxscale.downscale(Behind(), 8, target_size=12)


class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def test_leaf_modules_are_not_entered() -> None:
    model = Net(lambda m, x: m.head(x.mean((2, 3))), head=Normalised())
    small = assert_compiles(model, 12, 8, leaf_modules=[Normalised])
    assert [n.target for n in small.graph.nodes if n.op == "call_module"] == ["conv", "head"]


def test_the_leaf_modules_that_timm_registers() -> None:
    pytest.importorskip("timm")
    from timm.models._features_fx import get_notrace_modules

    model = Net(lambda m, x: m.head(x.mean((2, 3))), head=Normalised())
    assert_compiles(model, 12, 8, leaf_modules=[*get_notrace_modules(), Normalised])


def test_hooks_run_or_are_refused() -> None:
    model = Net(lambda m, x: m.stages(x), stages=pair(4, 4))
    handle = model.stages.register_forward_hook(lambda module, inputs, out: out * 3)
    with pytest.raises(UnsupportedModelError, match="the module 'stages' has hooks"):
        fxscale.downscale(model, 8, target_size=12)
    handle.remove()
    model.stages[1].register_forward_hook(lambda module, inputs, out: out * 3)
    model.stages[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    assert_compiles(model, 12, 8)


def test_hooks_of_the_network_itself() -> None:
    model = Net(lambda m, x: x)
    model.register_forward_hook(lambda module, inputs, out: out * 3)
    small = fxscale.downscale(model, 12, target_size=12, keep=["*"])
    image = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(small(image), model(image))


def test_compiling_twice_and_compiling_a_compiled_network() -> None:
    model = Net(lambda m, x: m.head(m.stages(x).flatten(1)), stages=pair(4, 4))
    model.head = nn.Linear(4 * 24 * 24, 2)
    first, second = (fxscale.downscale(model, 16, target_size=24) for _ in range(2))
    assert first.plan == second.plan
    assert first.code == second.code
    third = fxscale.downscale(first, 12, target_size=16)
    assert third(torch.randn(2, 3, 12, 12)).shape == (2, 2)
    first.load_state_dict(fxscale.upscale_state(third))
    model.load_state_dict(fxscale.upscale_state(first))


def test_model_mode_and_random_state_are_left_as_found() -> None:
    model = Net(lambda m, x: F.dropout(m.norm(x), 0.5, m.training), norm=nn.BatchNorm2d(4))
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = torch.get_rng_state()
    small = fxscale.downscale(model, 8, target_size=12)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert all(p is tensors[n] for n, p in (*model.named_parameters(), *model.named_buffers()))
    assert not small.get_submodule("norm").training
