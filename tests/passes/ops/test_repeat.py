"""Copies: of single values they take any axes, of pixels in a row they enlarge the map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, annotated, assert_same_outputs, layout

BODIES: dict[str, Any] = {
    "expand": lambda m, x: (x + x.mean((2, 3), keepdim=True).expand(*x.shape)).mean((2, 3)),
    "expand with -1": lambda m, x: (x * x.mean(1, keepdim=True).expand(-1, 4, -1, -1)).mean((2, 3)),
    "expand to new dimensions": lambda m, x: x.mean((0, 2, 3)).expand(x.shape[0], -1),
    "repeat": lambda m, x: (x.mean(1, keepdim=True).repeat(1, 4, 1, 1) - x).amax((2, 3)),
    "repeat to a map": lambda m, x: (
        x.mean((2, 3), keepdim=True).repeat(1, 1, x.shape[2], x.shape[3]) - x
    ).amax((2, 3)),
    "tile": lambda m, x: torch.tile(x, (1, 2, 1, 1)).mean((2, 3)),
    "channels one by one": lambda m, x: x.repeat_interleave(3, dim=1).mean((2, 3)),
    "an enlarged map": lambda m, x: (
        x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3).square().amax((2, 3))
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_copies(name: str) -> None:
    small = fxscale.downscale(Around(BODIES[name]), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(BODIES[name]), torch.randn(2, 3, 8, 8))
    same = fxscale.downscale(Around(BODIES[name]), 12, target_size=12, kernels={})
    assert_same_outputs(same, Around(BODIES[name]), torch.randn(2, 3, 12, 12))


def test_copies_for_a_map_that_they_meet_later() -> None:
    def body(size: int) -> Any:
        return lambda m, x: x * (2 * x.mean((2, 3), keepdim=True).expand(-1, -1, size, size))

    small = fxscale.downscale(Around(body(12)), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body(8)), torch.randn(2, 3, 8, 8))


def test_axes_of_copies() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True).expand(-1, -1, x.shape[2], x.shape[3])

    assert layout(annotated(Around(body)), "expand") == "(2) (4) (~12) (~12)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: x.repeat(1, 1, 2, 1), "puts copies of a feature map side by side"),
        (lambda m, x: x.repeat_interleave(2), "unevenly or without a dimension"),
        (lambda m, x: x.flatten(2).repeat_interleave(2, dim=2), "pixels of a flattened map"),
    ],
)
def test_what_cannot_be_copied(body: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        fxscale.downscale(Around(body), 8, target_size=12)
