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


def halos(m: Any, x: Tensor) -> Tensor:
    """Blocks of four pixels that look at six, written as in HaloNet."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
    around = F.pad(x, (1, 1, 1, 1)).unfold(2, 6, 4).unfold(3, 6, 4).permute(0, 2, 3, 4, 5, 1)
    blocks, around = blocks.flatten(1, 2).flatten(2, 3), around.flatten(1, 2).flatten(2, 3)
    out = F.scaled_dot_product_attention(blocks, around, around)
    return out.mean((1, 2))


BODIES: dict[str, Any] = {
    "patches": lambda m, x: F.unfold(x, 2, stride=2).mean(2),
    "a module": lambda m, x: m.unfold(x).amax(2),
    "dilated": lambda m, x: F.unfold(x, (3, 2), dilation=2, padding=(2, 1)).square().mean(2),
    "outlook": outlook,
    "windows": lambda m, x: x.unfold(2, 4, 4).unfold(3, 4, 2).square().sum((4, 5)).mean((2, 3)),
    "windows of channels": lambda m, x: x.unfold(1, 2, 1).amax(4).mean((2, 3)),
    "halos": halos,
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


def test_axes_of_windows() -> None:
    network = annotated(Around(lambda m, x: x.unfold(3, 6, 3)))
    assert layout(network, "unfold") == "(2) (4) (~12) (~3) (6)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: F.unfold(x.permute(0, 2, 1, 3), 2), "something else than a feature map"),
        (
            lambda m, x: F.fold(F.unfold(x, 2, stride=2), (13, 13), 2, stride=2),
            "folds onto a map of 13 pixels",
        ),
        (lambda m, x: x.flatten(2).unfold(2, 4, 4), "windows out of a flattened feature map"),
    ],
)
def test_what_are_no_patches(body: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        fxscale.downscale(Around(body), 8, target_size=12)
