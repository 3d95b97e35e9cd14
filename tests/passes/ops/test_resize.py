"""Interpolation and pixel shuffle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, assert_same_outputs

SAME: dict[str, tuple[Any, dict[str, nn.Module]]] = {
    "scale": (lambda m, x: F.interpolate(x, scale_factor=2), {}),
    "scale per axis": (lambda m, x: F.interpolate(x, scale_factor=(2, 0.5)), {}),
    "size of another map": (
        lambda m, x: F.interpolate(F.max_pool2d(x, 2), size=x.shape[2:], mode="bilinear") + x,
        {},
    ),
    "size of another map, unpacked": (
        lambda m, x: F.interpolate(F.max_pool2d(x, 2), size=(x.size(2), x.size(3))) + x,
        {},
    ),
    "module": (lambda m, x: m.up(x), {"up": nn.Upsample(scale_factor=2, mode="nearest")}),
    "pixel shuffle": (lambda m, x: m.up(x), {"up": nn.PixelShuffle(2)}),
    "F.pixel_shuffle": (lambda m, x: F.pixel_shuffle(x, 2), {}),
}


@pytest.mark.parametrize("name", SAME)
def test_relative_sizes_need_no_change(name: str) -> None:
    body, modules = SAME[name]
    small = fxscale.downscale(Around(body, **modules), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body, **modules), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("size", [24, (24, 24)])
def test_absolute_sizes_scale(size: Any) -> None:
    large = Around(lambda m, x: F.interpolate(x, size=size, mode="bilinear"))
    small = fxscale.downscale(large, 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(lambda m, x: F.interpolate(x, size=16, mode="bilinear"))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))


def test_the_size_of_a_module_scales() -> None:
    body: Any = lambda m, x: m.up(x)
    model = Around(body, up=nn.Upsample(size=(24, 24)))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body, up=nn.Upsample(size=(16, 16))), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("size", [(12, 12), 12])
def test_upsampling_a_global_pool_to_a_size_that_is_baked_in(size: Any) -> None:
    def body(m: Any, x: torch.Tensor, size: Any = size) -> torch.Tensor:
        return F.interpolate(x.mean((2, 3), keepdim=True), size=size) + x

    def small_body(m: Any, x: torch.Tensor) -> torch.Tensor:
        return body(m, x, x.shape[2:])

    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(small_body), torch.randn(2, 3, 8, 8))


def test_a_single_pixel_stays_one() -> None:
    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x.mean((2, 3), keepdim=True), size=(1, 1)) * x

    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body), torch.randn(2, 3, 8, 8))


def test_a_map_shrunk_to_one_pixel() -> None:
    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=(1, 1), mode="bilinear")

    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body), torch.randn(2, 3, 8, 8))


def test_upsampling_a_global_pool_by_a_factor_is_refused() -> None:
    model = Around(lambda m, x: F.interpolate(x.mean((2, 3), keepdim=True), scale_factor=12) + x)
    with pytest.raises(UnsupportedModelError, match="resizes a map of one pixel"):
        fxscale.downscale(model, 8, target_size=12)


def test_the_size_of_a_tensor_that_was_made_from_sizes() -> None:
    """Encoders without a map at half the size return one without channels in its place."""

    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        none = torch.empty(n, 0, h // 2, w // 2)
        half = F.interpolate(F.max_pool2d(x, 4), size=(none.shape[2], none.size(3)))
        return torch.cat([half, none], dim=1)

    small = fxscale.downscale(Around(body), 8, target_size=16, kernels={"conv": 3})
    assert_same_outputs(small, Around(body), torch.randn(2, 3, 8, 8))


def test_upsampling_a_global_pool_to_another_map() -> None:
    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return F.interpolate(pooled, size=x.shape[-2:], mode="bilinear") + x

    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body), torch.randn(2, 3, 8, 8))
