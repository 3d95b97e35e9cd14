"""Networks whose code asks for the batch size are the target for every batch, or say no.

The trace knows one batch size. The pre-train network is compiled at the target's own size with all
kernels kept, so that it must compute what the target computes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around


def same_network(model: nn.Module) -> nn.Module:
    same = fxscale.downscale(model, 12, target_size=12, keep=["*"])
    same.load_state_dict(model.state_dict())
    return same.eval()


def own_kernels(m: Any, x: Tensor) -> Tensor:
    """One group for each sample, as kernels that depend on the sample need it."""
    count = x.shape[0]
    weight = m.next.weight.repeat(count, 1, 1, 1)
    out = F.conv2d(x.reshape(1, -1, 12, 12), weight, padding=1, groups=count)
    return out.view(count, 4, 12, 12)


FOLLOWED = {
    "as a factor": lambda m, x: x * x.shape[0],
    "as a divisor, beside the pixels": lambda m, x: x / x.shape[0] / (x.shape[2] * x.shape[3]),
    "in the size of a constant": lambda m, x: x + torch.zeros(x.shape[0], 4, 1, 1),
    "in a view": lambda m, x: m.one(x.view(x.shape[0] * 4, 1, 12, 12)).view(x.shape[0], 4, 12, 12),
    "in a repetition": lambda m, x: x.mean(0, keepdim=True).repeat(x.shape[0], 1, 1, 1) + x,
    "in an expansion": lambda m, x: x[:1].expand(x.shape[0], 4, x.shape[2], x.shape[3]) + x,
    "as groups": own_kernels,
    "in a slice": lambda m, x: torch.cat([x, 2 * x], 0)[: x.shape[0]],
    "attention over samples": lambda m, x: (x.flatten(1) @ x.flatten(1).mT).softmax(-1),
    "pieces of the channels": lambda m, x: sum(x.view(x.shape[0], 2, 2, 12, 12).unbind(1)),
    "a comparison of shapes": lambda m, x: 2 * x if x.shape == m.next(x).shape else x,
}


@pytest.mark.parametrize("body", FOLLOWED.values(), ids=list(FOLLOWED))
def test_every_batch(body: Any) -> None:
    layers = {"one": nn.Conv2d(1, 1, 3, padding=1), "next": nn.Conv2d(4, 4, 3, padding=1)}
    model = Around(body, **layers).eval()
    same = same_network(model)
    for batch in (1, 2, 3, 8):
        images = torch.randn(batch, 3, 12, 12)
        assert torch.equal(same(images), model(images)), batch


def test_halves_of_every_even_batch() -> None:
    model = Around(lambda m, x: torch.cat([2 * half for half in x.split(x.shape[0] // 2)]))
    same = same_network(model)
    for batch in (2, 4, 10):
        images = torch.randn(batch, 3, 12, 12)
        assert torch.equal(same(images), model(images))


COUNTED = {
    "samples in a loop": lambda m, x: torch.stack([n * y for n, y in enumerate(x)]),
    "samples of a split": lambda m, x: torch.cat([2 * y for y in x.split(1)]),
    "samples unbound": lambda m, x: torch.stack([2 * y for y in x.unbind(0)]),
    "the number of samples": lambda m, x: x * len(x),
    "a range": lambda m, x: torch.stack([x[n] for n in range(x.shape[0])]),
}


@pytest.mark.parametrize("body", COUNTED.values(), ids=list(COUNTED))
def test_what_python_counts_is_refused(body: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="at another batch size"):
        fxscale.downscale(Around(body), 8, target_size=12)


BRANCHES = {
    "more than one": lambda m, x: m.norm(x) if x.shape[0] > 1 else 2 * x,
    "at least one": lambda m, x: torch.cat(x.chunk(max(1, x.shape[0] // 8))),
    "as many as channels": lambda m, x: x if x.shape[0] != x.shape[1] else 2 * x,
}
OTHERWISE = {"more than one": 1, "at least one": 16, "as many as channels": 4}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_that_another_batch_would_not_take_is_refused_when_it_comes(name: str) -> None:
    model = Around(BRANCHES[name], norm=nn.BatchNorm2d(4)).eval()
    same = same_network(model)
    images = torch.randn(3, 3, 12, 12)
    assert torch.equal(same(images), model(images))
    with pytest.raises(UnsupportedModelError, match="decides by the batch size") as error:
        same(torch.randn(OTHERWISE[name], 3, 12, 12))
    assert str(error.value.source).startswith(__file__)
    assert "drop_last=True" in str(error.value.remedy)


def test_a_branch_on_the_size_of_images_is_the_targets() -> None:
    """It scales with the images, and no batch asks for it."""
    model = Around(lambda m, x: m.next(x) if x.shape[2] > 10 else x, next=nn.Conv2d(4, 4, 3))
    small = fxscale.downscale(model, 8, target_size=12)
    assert small(torch.randn(1, 3, 8, 8)).shape[0] == 1


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: x / x.numel(),
        lambda m, x: x / (x.shape[0] * x.shape[2] * x.shape[3]),
        lambda m, x: x * (x.sum() / x.numel()),
    ],
)
def test_samples_and_pixels_in_one_factor_are_refused(body: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="counts samples and pixels in one number"):
        fxscale.downscale(Around(body), 8, target_size=12)
