"""Pools keep their windows, global pools stay global, adaptive outputs scale."""

from __future__ import annotations

import copy
from functools import partial
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
    "p-norm": nn.LPPool2d(2, 3, 2),
    "p-norm ceil": nn.LPPool2d(4, (2, 3), ceil_mode=True),
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


def attend(m: Any, x: Tensor) -> Tensor:
    """Queries are pixels; keys are means over runs of nine of them, as in Next-ViT."""
    tokens = x.flatten(2).transpose(1, 2)
    keys = m.norm(m.pool(x.flatten(2))).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, keys, keys).mean(1)


ROWS: dict[str, Any] = {
    "average": lambda m, x: F.avg_pool1d(x.flatten(2), 4).square().mean(2),
    "max": lambda m, x: F.max_pool1d(x.flatten(2), 5, 3, padding=1).mean(2),
    "transposed": lambda m, x: F.avg_pool1d(x.transpose(2, 3).flatten(2), 7).square().mean(2),
    "twice": lambda m, x: F.max_pool1d(F.avg_pool1d(x.flatten(2), 3, 2), 2, ceil_mode=True).mean(2),
    "all": lambda m, x: F.max_pool1d(x.flatten(2), 144).flatten(1),
    "attention": attend,
}


@pytest.mark.parametrize("name", ROWS)
def test_a_pool_along_flattened_pixels_keeps_its_window(name: str) -> None:
    def build() -> Around:
        torch.manual_seed(0)
        return Around(ROWS[name], pool=nn.AvgPool1d(9), norm=nn.BatchNorm1d(4))

    same = fxscale.downscale(build(), 12, target_size=12, kernels={})
    image = torch.randn(2, 3, 12, 12)
    assert torch.equal(same.eval()(image), build().eval()(image))
    if name != "all":  # there the window is written as a number of the target
        small = fxscale.downscale(build(), 8, target_size=12, kernels={"conv": 3})
        assert_same_outputs(small, build(), torch.randn(2, 3, 8, 8))


def test_one_window_over_all_flattened_pixels_stays_global() -> None:
    small = fxscale.downscale(Around(ROWS["all"]), 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(lambda m, x: x.amax((2, 3)))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.fc(F.avg_pool1d(x.flatten(2), 4)),
        lambda m, x: m.conv1(F.avg_pool1d(x.flatten(2), 4)),
        lambda m, x: m.whole(F.avg_pool1d(x.flatten(2), 4)),
        lambda m, x: F.avg_pool1d(x.flatten(2), 4).unflatten(2, (6, 6)),
        lambda m, x: F.avg_pool1d(x.flatten(2), 4) + m.table,
        lambda m, x: F.interpolate(F.avg_pool1d(x.flatten(2), 4), scale_factor=2),
    ],
)
def test_what_a_row_of_pixels_cannot_be(body: Any) -> None:
    model = Around(body, fc=nn.Linear(36, 5), conv1=nn.Conv1d(4, 4, 3), whole=nn.Conv1d(4, 4, 36))
    model.table = nn.Parameter(torch.zeros(36))
    with pytest.raises(UnsupportedModelError, match="meets the pixels of a flattened map"):
        fxscale.downscale(model, 8, target_size=12)


def test_a_pool_over_channels_and_pixels_is_refused() -> None:
    model = Around(lambda m, x: F.max_pool1d(x.flatten(1)[:, None], 2))
    with pytest.raises(UnsupportedModelError, match="pools over a flattened feature map"):
        fxscale.downscale(model, 8, target_size=12)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.avg_pool2d(x, x.shape[-1] // 4),
        lambda x: F.avg_pool2d(x, kernel_size=(x.shape[-2] // 4, x.shape[-1] // 4)),
        lambda x: F.avg_pool2d(x, 3, stride=x.shape[-1] // 4),
        lambda x: F.max_pool2d(x, 3, stride=x.shape[-1] // 4),
    ],
)
def test_a_window_computed_from_a_size_stays(pool: Any) -> None:
    small = fxscale.downscale(
        Around(lambda m, x: pool(x).mean((2, 3))), 8, target_size=12, kernels={"conv": 3}
    )
    # 4 windows in the target, so 3 fit better than 2: a max pool takes one that is not full.
    by_hand: Any = F.avg_pool2d
    if "max" in small.code:
        by_hand = partial(F.max_pool2d, ceil_mode=True)
    other = Around(lambda m, x: by_hand(x, 3).mean((2, 3)))
    assert_same_outputs(small, other, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("norm", [1, 2, 4])
def test_a_global_p_norm_keeps_its_amplitude(norm: int, rank: int, functional: bool) -> None:
    """Of an image all of whose pixels are doubled along every axis, the p-norm grows."""
    pool = {1: nn.LPPool1d, 2: nn.LPPool2d, 3: nn.LPPool3d}[rank](norm, 12)
    function: Any = {1: F.lp_pool1d, 2: F.lp_pool2d, 3: F.lp_pool3d}[rank]

    def body(m: Any, x: Tensor) -> Tensor:
        x = F.softplus(x)
        return (function(x, float(norm), 12) if functional else m.pool(x)).flatten(1)

    model = Around(body, pool=pool)
    model.conv = CONV[rank](3, 4, 1)
    small = fxscale.downscale(model.double(), 6, target_size=12)
    model.load_state_dict(fxscale.upscale_state(small))
    image = torch.rand(2, 3, *[6] * rank, dtype=torch.float64)
    doubled = image
    for axis in range(2, 2 + rank):
        doubled = doubled.repeat_interleave(2, axis)
    torch.testing.assert_close(small(image), model(doubled))


@pytest.mark.parametrize("divisor", [1, 144, 10])
def test_a_global_pool_with_a_divisor_of_its_own_keeps_its_amplitude(divisor: int) -> None:
    pool = nn.AvgPool2d(12, divisor_override=divisor)
    model = Around(lambda m, x: m.pool(x).flatten(1), pool=pool)
    model.conv = nn.Conv2d(3, 4, 1)  # mixes no pixels
    small = fxscale.downscale(model, 6, target_size=12)
    model.load_state_dict(fxscale.upscale_state(small))
    image = torch.randn(2, 3, 6, 6)
    doubled = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(small(image), model(doubled))
