"""Slices and pads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, assert_same_outputs

BODIES: dict[str, Any] = {
    "strided": lambda m, x: x[:, :, ::2, ::2],
    "strided with ellipsis": lambda m, x: x[..., ::2],
    "channels": lambda m, x: x[:, 1:3],
    "one channel": lambda m, x: x[:, 0],
    "last channels": lambda m, x: x[:, -2:],
    "new axis": lambda m, x: x[:, None].mean(1),
    "select": lambda m, x: x.select(1, -1) + torch.select(x, 1, 0),
    "select a border": lambda m, x: x.select(2, 0) + x.select(dim=3, index=-1),
    "narrow": lambda m, x: x.narrow(1, 1, 2),
    "index_select": lambda m, x: torch.index_select(x, 1, torch.tensor([3, 0], device=x.device)),
    "pad channels": lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 2)),
    "shortcut A": lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)),
}


@pytest.mark.parametrize("name", BODIES)
def test_slices(name: str) -> None:
    small = fxscale.downscale(Around(BODIES[name]), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(BODIES[name]), torch.randn(2, 3, 8, 8))


PADS: dict[str, tuple[Any, dict[str, nn.Module]]] = {
    "F.pad": (lambda m, x: m.next(F.pad(x, (1, 1, 1, 1))), {}),
    "reflect": (lambda m, x: m.next(F.pad(x, (1, 1, 1, 1), mode="reflect")), {}),
    "circular module": (lambda m, x: m.next(m.pad(x)), {"pad": nn.CircularPad2d(1)}),
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


def _tokens(x: Tensor) -> Tensor:
    """One token in front of the pixels: 1 + H * W."""
    return torch.cat([x.mean((2, 3))[:, None], x.flatten(2).mT], dim=1)


def _write(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 1:3] = 0
    return x


def _rebuilt(x: Tensor) -> Tensor:
    """Tokens sliced off and put back together, map and token apart."""
    y = _tokens(x)
    token, pixels = y[:, :1], y[:, 1:]
    again = pixels.mT.reshape(x.shape) + x
    return torch.cat([token, again.flatten(2).mT], dim=1)


BETWEEN: dict[str, Any] = {
    "class token": lambda x: _tokens(x)[:, 0],
    "class token by a slice": lambda x: _tokens(x)[:, 0:1, ...],
    "pixels": lambda x: _tokens(x)[:, 1:].mT.reshape(x.shape),
    "pixels by a computed index": lambda x: _tokens(x)[:, x.shape[0] // x.shape[0] :],
    "pixels by a negative index": lambda x: _tokens(x)[:, -(x.shape[2] * x.shape[3]) :],
    "a token behind": lambda x: torch.cat([x.flatten(2), x.mean((2, 3))[..., None]], 2)[..., -1],
    "pixels before a token": lambda x: torch.cat([x.flatten(2), x.mean((2, 3))[..., None]], 2)[
        ..., :-1
    ],
    "split": lambda x: _tokens(x).split([1, x.shape[2] * x.shape[3]], dim=1)[1],
    "two maps": lambda x: torch.cat([x.flatten(2), F.avg_pool2d(x, 2).flatten(2)], 2),
    "two maps, side by side": lambda x: torch.cat([x, x.flip(3)], 3),
    "tokens meet tokens": lambda x: _tokens(x) + _tokens(x.relu()),
    "rebuilt": _rebuilt,
    "a padded token": lambda x: F.pad(x.flatten(2).mT, (0, 0, 1, 0)) + _tokens(x),
    "padded tokens": lambda x: F.pad(_tokens(x), (0, 0, 0, 2), value=0.5)[:, -2:],
    "the mean of the pixels": lambda x: _tokens(x)[:, 1:].mean(1),
    "the mean of all tokens": lambda x: _tokens(x).mean(1),
    "attention": lambda x: F.scaled_dot_product_attention(_tokens(x), _tokens(x), _tokens(x))[:, 0],
}


@pytest.mark.parametrize("name", BETWEEN)
def test_parts_of_a_concatenation(name: str) -> None:
    body: Any = lambda m, x: BETWEEN[name](x)
    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={})
    assert_same_outputs(small, Around(body), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("large", "little"),
    [
        (lambda x: _tokens(x)[:, -144:], lambda x: _tokens(x)[:, -64:]),
        (lambda x: _tokens(x).split([1, 144], 1)[1], lambda x: _tokens(x).split([1, 64], 1)[1]),
        (lambda x: _tokens(x).split((1, 144), 1)[0], lambda x: _tokens(x).split((1, 64), 1)[0]),
        (lambda x: _tokens(x).tensor_split((1,), 1)[1], lambda x: _tokens(x)[:, 1:]),
        (
            lambda x: torch.tensor_split(_tokens(x), indices=(-144,), dim=1)[1],
            lambda x: _tokens(x)[:, 1:],
        ),
        (
            lambda x: torch.cat([x.flatten(2).mT, _tokens(x)], 1).tensor_split((144, 145), 1)[1],
            lambda x: x.mean((2, 3))[:, None],
        ),
        (
            lambda x: torch.cat([x.flatten(2), x.mean((2, 3))[..., None]], 2)[..., 144],
            lambda x: x.mean((2, 3)),
        ),
        (
            lambda x: torch.cat([x.flatten(2), x.mean((2, 3))[..., None]], 2)[..., :144],
            lambda x: x.flatten(2),
        ),
        (lambda x: x[:, :, 3:9, 3:-3], lambda x: x[:, :, 2:6, 2:-2]),
        (lambda x: x[..., :6, 6:], lambda x: x[..., :4, 4:]),
        (lambda x: x[..., : x.shape[2] - 3, 3:], lambda x: x[..., :6, 2:]),
        (lambda x: x[:, :, 1::2, ::2], lambda x: x[:, :, 1::2, ::2]),
        (lambda x: x[:, [2, 0, 1], :12], lambda x: x[:, [2, 0, 1]]),
        (lambda x: x.permute(0, 2, 3, 1)[:, 3:-3], lambda x: x.permute(0, 2, 3, 1)[:, 2:-2]),
    ],
)
def test_indices_baked_into_slices_are_replaced(large: Any, little: Any) -> None:
    target = Around(lambda m, x: large(x))
    small = fxscale.downscale(target, 8, target_size=12, kernels={})
    assert_same_outputs(small, Around(lambda m, x: little(x)), torch.randn(2, 3, 8, 8))


def test_writing_into_channels() -> None:
    def shift(m: Any, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[:, 1:] = x[:, :-1]
        out[:, 0] = 2.0
        return out

    small = fxscale.downscale(Around(shift), 8, target_size=12, kernels={})
    assert_same_outputs(small, Around(shift), torch.randn(2, 3, 8, 8))


REFUSED: dict[str, tuple[Any, str]] = {
    "crop with a step": (lambda m, x: x[:, :, 2:10:2], "crops a feature map and skips pixels"),
    "flattened crop": (lambda m, x: x.flatten(2)[:, :, 1:], "slices a flattened feature map"),
    "a write into a map": (lambda m, x: _write(x), "writes into a part of a feature map"),
    "every second token": (lambda m, x: _tokens(x)[:, ::2], "takes every second token"),
    "half of the pixels": (lambda m, x: _tokens(x)[:, 1:50], "divides the feature map inside"),
    "one pixel of many": (lambda m, x: _tokens(x)[:, 5], "divides the feature map inside"),
    "split inside": (lambda m, x: _tokens(x).split([73, 72], 1)[0], "divides the feature map ins"),
    "even chunks": (lambda m, x: _tokens(x).chunk(5, 1)[0], "splits a feature map along a spat"),
    "one pixel": (lambda m, x: x[:, :, 3, 0], "picks one pixel of a feature map"),
    "tensor_split inside": (
        lambda m, x: _tokens(x).tensor_split((9,), 1)[0],
        "divides the feature",
    ),
    "flattened crop by pad": (lambda m, x: F.pad(x.flatten(2), (-1, 1)), "crops a flattened feat"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_scale_is_refused(name: str) -> None:
    body, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        fxscale.downscale(Around(body), 8, target_size=12)
