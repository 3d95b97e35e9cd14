"""Patches as columns, and columns laid back on the map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, annotated, assert_same_outputs, layout


def outlook(m: Any, x: Tensor) -> Tensor:
    """As in VOLO: patches weighted one by one, and laid back over each other."""
    h, w = x.shape[2:]
    patches = F.unfold(x, 3, padding=1, stride=2)
    weights = F.avg_pool2d(x, 2, ceil_mode=True).mean(1, keepdim=True).flatten(2)
    return F.fold(patches * weights, (h, w), 3, padding=1, stride=2).square().mean((2, 3))


BODIES: dict[str, Any] = {
    "patches": lambda m, x: F.unfold(x, 2, stride=2).mean(2),
    "a module": lambda m, x: m.unfold(x).amax(2),
    "dilated": lambda m, x: F.unfold(x, (3, 2), dilation=2, padding=(2, 1)).square().mean(2),
    "outlook": outlook,
}


def around(name: str) -> Around:
    return Around(BODIES[name], unfold=nn.Unfold(3, padding=1))


@pytest.mark.parametrize("name", BODIES)
def test_patches(name: str) -> None:
    small = fxscale.downscale(around(name), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, around(name), torch.randn(2, 3, 8, 8))
    same = fxscale.downscale(around(name), 12, target_size=12, kernels={})
    assert_same_outputs(same, around(name), torch.randn(2, 3, 12, 12))


def test_a_size_that_is_written_down_follows_the_map() -> None:
    def body(size: int) -> Any:
        return lambda m, x: F.fold(F.unfold(x, 3, padding=1), size, 3, padding=1).mean((2, 3))

    small = fxscale.downscale(Around(body(12)), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body(8)), torch.randn(2, 3, 8, 8))


def test_axes_of_patches() -> None:
    network = annotated(Around(lambda m, x: F.unfold(x, 3, padding=1, stride=2)))
    assert layout(network, "unfold") == "(2) (4 3 3) (~6 ~6)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: F.unfold(x.permute(0, 2, 1, 3), 2), "something else than a feature map"),
        (
            lambda m, x: F.fold(F.unfold(x, 2, stride=2), (13, 13), 2, stride=2),
            "folds onto a map of 13 pixels",
        ),
    ],
)
def test_what_are_no_patches(body: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        fxscale.downscale(Around(body), 8, target_size=12)
