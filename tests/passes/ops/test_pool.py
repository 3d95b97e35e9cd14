"""Pools keep their windows, global pools stay global, adaptive outputs scale."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import CONV, Around, assert_same_outputs

KEPT: dict[str, nn.Module] = {
    "max": nn.MaxPool2d(2),
    "max ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max padded": nn.MaxPool2d(3, 2, 1),
    "max dilated": nn.MaxPool2d(2, 1, dilation=2),
    "average": nn.AvgPool2d(2),
    "average padded": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average uneven": nn.AvgPool2d((2, 3), (1, 2)),
    "adaptive to one": nn.AdaptiveAvgPool2d(1),
    "adaptive max to one": nn.AdaptiveMaxPool2d((1, 1)),
    "adaptive open axis": nn.AdaptiveAvgPool2d((None, 1)),
}


def features(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m.pool(x)
    return out.mean((2, 3))


@pytest.mark.parametrize("name", KEPT)
def test_pools_keep_their_windows(name: str) -> None:
    small = fxscale.downscale(
        Around(features, pool=KEPT[name]), 8, target_size=12, kernels={"conv": 3}
    )
    by_hand = Around(features, pool=copy.deepcopy(KEPT[name]))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "global_pool",
    [
        lambda x: F.avg_pool2d(x, 12),
        lambda x: F.avg_pool2d(x, kernel_size=(12, 12)),
        lambda x: F.max_pool2d(x, 12, stride=12),
        lambda x: F.avg_pool2d(x, x.shape[2:]),
        lambda x: F.avg_pool2d(x, x.size()[2:]),
    ],
)
def test_a_pool_over_the_whole_map_stays_global(global_pool: Any) -> None:
    model = Around(lambda m, x: global_pool(x).flatten(1))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    output = small(torch.randn(2, 3, 8, 8))
    assert output.shape == (2, 4)
    image = torch.randn(2, 3, 8, 8)
    weight, bias = small.get_parameter("conv.weight"), small.get_parameter("conv.bias")
    maps = F.conv2d(image, weight, bias, padding=1)
    both = [maps.mean((2, 3)), maps.amax((2, 3))]
    assert any(torch.allclose(small(image), e, atol=1e-6) for e in both)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_global_pool_module_in_every_rank(rank: int) -> None:
    pool = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[rank]
    model = nn.Sequential(CONV[rank](3, 4, 1), pool(12), nn.Flatten(), nn.Linear(4, 5))
    small = fxscale.downscale(model, 8, target_size=12)
    by_hand = nn.Sequential(CONV[rank](3, 4, 1), pool(8), nn.Flatten(), nn.Linear(4, 5))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, *[8] * rank))


def test_the_adaptive_pool_before_an_interface_scales() -> None:
    body: Any = lambda m, x: m.fc(m.pool(x).flatten(1))
    model = Around(body, pool=nn.AdaptiveAvgPool2d((6, 6)), fc=nn.Linear(144, 5))
    small = fxscale.downscale(model, 16, target_size=24, kernels={"conv": 3})
    by_hand = Around(body, pool=nn.AdaptiveAvgPool2d((4, 4)), fc=nn.Linear(64, 5))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize("pool", [F.adaptive_avg_pool2d, F.adaptive_max_pool2d])
def test_functional_adaptive_pools_scale(pool: Any) -> None:
    model = Around(lambda m, x: m.fc(pool(x, (6, 6)).flatten(1)), fc=nn.Linear(144, 5))
    small = fxscale.downscale(model, 16, target_size=24, kernels={"conv": 3})
    by_hand = Around(lambda m, x: m.fc(pool(x, 4).flatten(1)), fc=nn.Linear(64, 5))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 16, 16))


def test_indices_are_refused() -> None:
    model = Around(lambda m, x: m.pool(x)[0], pool=nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(UnsupportedModelError, match="returns indices into the feature map"):
        fxscale.downscale(model, 8, target_size=12)


def test_a_pool_over_flattened_pixels_is_refused() -> None:
    model = Around(lambda m, x: F.max_pool1d(x.flatten(2), 2))
    with pytest.raises(UnsupportedModelError, match="pools over a flattened feature map"):
        fxscale.downscale(model, 8, target_size=12)
