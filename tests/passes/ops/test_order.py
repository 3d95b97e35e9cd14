"""Sorting, and picking by rank: along channels as anywhere, along pixels refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, assert_same_outputs

CHANNELS: dict[str, Callable[[Any, Tensor], Any]] = {
    "sort": lambda m, x: torch.sort(x, 1)[0],
    "sort, the last": lambda m, x: x.movedim(1, -1).sort(descending=True).values,
    "topk": lambda m, x: x.topk(2, 1)[0],
    "topk by name": lambda m, x: torch.topk(x, k=3, dim=1, largest=False).values,
    "median": lambda m, x: x.median(1)[0],
    "median, kept": lambda m, x: torch.median(x, dim=1, keepdim=True)[0] + x,
    "median of everything": lambda m, x: x.mean((2, 3)).median(),
    "mode": lambda m, x: x.round().mode(1)[0],
    "kthvalue": lambda m, x: x.kthvalue(2, 1)[0],
    "argmax": lambda m, x: x.argmax(1),
    "argmax, kept": lambda m, x: x * torch.argmax(x, dim=1, keepdim=True),
    "argmax of everything": lambda m, x: x.mean((2, 3)).argmax(),
    "argsort": lambda m, x: x.argsort(1),
    "gather": lambda m, x: x.gather(1, x.argsort(1)) * x,
    "gather by name": lambda m, x: torch.gather(x, dim=-3, index=x.topk(2, 1)[1]),
    "take_along_dim": lambda m, x: torch.take_along_dim(x, x.argmin(1, keepdim=True), dim=1),
    "the last dimension": lambda m, x: x.mean((2, 3)).argsort() + x.mean((2, 3)).sort()[1],
}


@pytest.mark.parametrize("name", CHANNELS)
def test_along_channels(name: str) -> None:
    body = CHANNELS[name]
    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(copy.deepcopy(body)), torch.randn(2, 3, 8, 8))


GATHERED: dict[str, Callable[[Any, Tensor], Any]] = {
    "pixels": lambda m, x: x.gather(2, x.long().clamp(0, 7)),
    "everything": lambda m, x: torch.take_along_dim(x, x.long().clamp(0, 7)),
    "of the first pixels": lambda m, x: x.gather(1, x.argsort(1)[:, :, :3]),
}


@pytest.mark.parametrize("name", GATHERED)
def test_pixels_are_not_gathered(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="picks pixels of a feature map by computed"):
        fxscale.downscale(Around(GATHERED[name]), 8, target_size=12)


PIXELS: dict[str, Callable[[Any, Tensor], Any]] = {
    "sort": lambda m, x: x.flatten(2).sort(2)[0],
    "the last dimension": lambda m, x: x.topk(3)[0],
    "median": lambda m, x: x.flatten(2).median(2)[0],
    "kthvalue": lambda m, x: x.kthvalue(3, 2)[0],
    "argmax": lambda m, x: x.flatten(2).argmax(2),
    "argmax of everything": lambda m, x: x.argmax(),
    "argsort": lambda m, x: x.argsort(3),
}


@pytest.mark.parametrize("name", PIXELS)
def test_along_pixels(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="puts the pixels of a feature map in order"):
        fxscale.downscale(Around(PIXELS[name]), 8, target_size=12)
