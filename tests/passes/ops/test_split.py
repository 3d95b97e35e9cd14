"""Chunks, splits and halves, of channels and of maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import (
    Around,
    assert_gradients_reach_every_parameter,
    assert_identical_at_its_own_size,
    assert_same_outputs,
)

CHANNELS: dict[str, Any] = {
    "chunk": lambda m, x: x.chunk(2, dim=1)[1],
    "torch.chunk": lambda m, x: torch.chunk(x, 2, 1)[0],
    "split": lambda m, x: x.split([1, 3], dim=1)[1],
    "tensor_split": lambda m, x: x.tensor_split(2, dim=1)[1],
    "torch.split": lambda m, x: torch.cat(torch.split(x, 2, 1)[::-1], 1),
    "gated": lambda m, x: F.glu(x, 1),
    "unbind": lambda m, x: x.unbind(1)[2],
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channels(name: str) -> None:
    small = fxscale.downscale(Around(CHANNELS[name]), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(CHANNELS[name]), torch.randn(2, 3, 8, 8))


# Four stripes of six pixels in a target of 24, of four in a pre-train network of 16.
STRIPES: dict[str, Callable[[Tensor, int], Any]] = {
    "chunk": lambda x, n: x.chunk(4, 2),
    "by a size": lambda x, n: x.split(n, 2),
    "by sizes": lambda x, n: torch.split(x, [n] * 4, dim=2),
    "by a computed size": lambda x, n: torch.split(x, x.size(2) // 4, dim=2),
    "tensor_split": lambda x, n: torch.tensor_split(x, 4, dim=2),
    "columns": lambda x, n: [part.mT for part in x.chunk(4, 3)],
}


def striped(divide: Callable[[Tensor, int], Any], n: int) -> nn.Module:
    """A layer for each stripe, as in part-based re-identification."""

    def body(m: Any, x: Tensor) -> Tensor:
        parts = [part(stripe) for part, stripe in zip(m.parts, divide(x, n), strict=True)]
        return torch.stack([part.mean((2, 3)) for part in parts], 1)

    layers = [nn.Conv2d(4, 2, 3, padding=1) for _ in range(4)]
    return Around(body, parts=nn.ModuleList(layers))


@pytest.mark.parametrize("name", STRIPES)
def test_equal_stripes_of_a_map(name: str) -> None:
    target = striped(STRIPES[name], 6)
    small = fxscale.downscale(target, 16, target_size=24, kernels={"*": 3})
    image = torch.randn(2, 3, 16, 16)
    assert_same_outputs(small, striped(STRIPES[name], 4), image)
    assert_gradients_reach_every_parameter(small, image)
    assert_identical_at_its_own_size(target, 24)


def test_stripes_meet_each_other() -> None:
    def apart(m: Any, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 3)
        return torch.cat((left - right.flip(3), left * right), 1)

    small = fxscale.downscale(Around(apart), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(apart), torch.randn(2, 3, 8, 8))


def test_sizes_that_do_not_divide_are_refused_with_those_that_do() -> None:
    with pytest.raises(UnsupportedModelError, match="input_size that divides: 4, 8"):
        fxscale.downscale(striped(STRIPES["chunk"], 3), 10, target_size=12)
    small = fxscale.downscale(striped(STRIPES["chunk"], 3), target_size=12)
    assert small.plan.pretrain_size == (8, 8)


REFUSED: dict[str, Any] = {
    "uneven parts": lambda m, x: x.split(5, dim=-1)[0],
    "single pixels": lambda m, x: x.chunk(12, dim=2)[0],
    "by bounds": lambda m, x: x.tensor_split((6,), dim=2)[0],
    "pixels of a flattened map": lambda m, x: x.flatten(2).chunk(2, 2)[0],
    "one row after the other": lambda m, x: x.unbind(3)[0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_scale_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="splits a feature map along a spatial axis"):
        fxscale.downscale(Around(REFUSED[name]), 8, target_size=12)
