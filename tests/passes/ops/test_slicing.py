"""Slices, chunks and pads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, same_outputs

BODIES: dict[str, Any] = {
    "strided": lambda m, x: x[:, :, ::2, ::2],
    "strided with ellipsis": lambda m, x: x[..., ::2],
    "channels": lambda m, x: x[:, 1:3],
    "one channel": lambda m, x: x[:, 0],
    "last channels": lambda m, x: x[:, -2:],
    "new axis": lambda m, x: x[:, None].mean(1),
    "chunk": lambda m, x: x.chunk(2, dim=1)[1],
    "torch.chunk": lambda m, x: torch.chunk(x, 2, 1)[0],
    "split": lambda m, x: x.split([1, 3], dim=1)[1],
    "torch.split": lambda m, x: torch.cat(torch.split(x, 2, 1)[::-1], 1),
    "unbind": lambda m, x: x.unbind(1)[2],
    "pad channels": lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 2)),
    "shortcut A": lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)),
}


@pytest.mark.parametrize("name", BODIES)
def test_slices(name: str) -> None:
    small = fxscale.downscale(Around(BODIES[name]), 8, target_size=12, kernels={"conv": 3})
    same_outputs(small, Around(BODIES[name]), torch.randn(2, 3, 8, 8))


PADS: dict[str, tuple[Any, dict[str, nn.Module]]] = {
    "F.pad": (lambda m, x: m.next(F.pad(x, (1, 1, 1, 1))), {}),
    "reflect": (lambda m, x: m.next(F.pad(x, (1, 1, 1, 1), mode="reflect")), {}),
    "zero module": (lambda m, x: m.next(m.pad(x)), {"pad": nn.ZeroPad2d(1)}),
    "reflection module": (lambda m, x: m.next(m.pad(x)), {"pad": nn.ReflectionPad2d(1)}),
    "one-sided": (lambda m, x: m.next(F.pad(x, (0, 1, 0, 1))), {}),
}


@pytest.mark.parametrize("name", PADS)
def test_pads_with_unchanged_kernels(name: str) -> None:
    body, modules = PADS[name]
    modules = {**modules, "next": nn.Conv2d(4, 4, 3, stride=2)}
    small = fxscale.downscale(
        Around(body, **modules), 8, target_size=12, kernels={"conv": 3, "next": 3}
    )
    out = small(torch.randn(2, 3, 8, 8))
    assert out.shape == (2, 4, 4, 4)


@pytest.mark.parametrize("name", PADS)
def test_pads_before_smaller_kernels(name: str) -> None:
    body, modules = PADS[name]
    modules = {**modules, "next": nn.Conv2d(4, 4, 3, stride=2)}
    small = fxscale.downscale(Around(body, **modules), 16, target_size=24)
    assert small(torch.randn(2, 3, 16, 16)).shape == (2, 4, 8, 8)


REFUSED: dict[str, tuple[Any, str]] = {
    "crop": (lambda m, x: x[:, :, 2:10, 2:10], "crops a feature map at indices"),
    "one pixel": (lambda m, x: x[:, :, 0, 0], r"."),
    "spatial chunk": (lambda m, x: x.chunk(2, dim=2)[0], "splits a feature map along a spatial"),
    "spatial split": (lambda m, x: x.split(6, dim=-1)[0], "splits a feature map along a spatial"),
    "spatial unbind": (lambda m, x: x.unbind(3)[0], "splits a feature map along a spatial axis"),
    "flattened pad": (lambda m, x: F.pad(x.flatten(2), (1, 1)), "pads a flattened feature map"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_scale_is_refused(name: str) -> None:
    body, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        fxscale.downscale(Around(body), 8, target_size=12)
