"""Max pools get other paddings: written by hand, in torch's own terms, they compute the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxscale
from fxscale.passes.chains import pool_paddings
from fxscale.passes.grids import image_grid, through_window
from tests.passes.networks import CONV, Around, assert_same_outputs
from tests.passes.windows import window

MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
FUNCTIONS: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def blocks(rank: int, pool: nn.Module, *convolutions: int) -> nn.Sequential:
    """Blocks of 3-wide convolutions with so many layers each, each block with the pool behind."""
    layers: list[nn.Module] = []
    channels = 3
    for count in convolutions:
        for _ in range(count):
            layers += [CONV[rank](channels, 4, 3, padding=1), nn.Tanh()]
            channels = 4
        layers.append(pool)
    return nn.Sequential(*layers)


def by_hand(
    small: nn.Module, image: Tensor, paddings: list[int], pools: list[dict[str, Any]]
) -> Tensor:
    """The pre-train network's weights in blocks written out, pools where `paddings` has -1."""
    rank = image.ndim - 2
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    tensors = iter(small.parameters())
    left = iter(pools)
    x = image
    for padding in paddings:
        if padding < 0:
            x = FUNCTIONS[rank](x, 2, **next(left))
        else:
            x = torch.tanh(convolve(x, next(tensors), next(tensors), padding=padding))
    return x


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_pool_behind_three_convolutions_completes_its_last_window(rank: int) -> None:
    """10, 9, 10, 9 pixels, of which 5 pairs: not 10, 9, 10, 11."""
    model = blocks(rank, MAX_POOL[rank](2), 3)
    small = fxscale.downscale(model, 10, target_size=14)
    image = torch.randn(2, 3, *[10] * rank)
    expected = by_hand(small, image, [0, 1, 0, -1], [{"ceil_mode": True}])
    torch.testing.assert_close(small(image), expected)
    (pool,) = small.plan.pools
    assert (pool.node, pool.module) == ("_6", "6")
    assert pool.target_padding == ((0, 0),) * rank
    assert pool.pretrain_padding == ((0, 1),) * rank
    assert small.plan.pad_operators == ()
    assert "max pools         1: 6 padding 0->0/1" in str(small.plan)


def test_a_pool_before_three_convolutions_is_padded() -> None:
    """40 pixels and the border make 21 pairs, then 20, 19, 20: no grid drifts."""
    model = blocks(2, nn.MaxPool2d(2), 2, 3)
    model.append(nn.AdaptiveAvgPool2d(1))
    small = fxscale.downscale(model, 40, target_size=56)
    lengths = [m.pretrain_size[0] for m in small.plan.feature_maps]
    assert lengths == [40, 39, 40, 21, 20, 19, 20, 10]
    image = torch.randn(2, 3, 40, 40)
    pools = [{"padding": 1}, {"padding": 0}]
    expected = by_hand(small, image, [0, 1, -1, 0, 0, 1, -1], pools)
    torch.testing.assert_close(small(image).flatten(), expected.mean((2, 3)).flatten())
    assert small.plan.max_drift == 0


def test_a_module_whose_calls_differ_is_called_as_a_function_where_it_changes() -> None:
    pool = nn.MaxPool2d(2)
    model = blocks(2, pool, 3, 2)
    small = fxscale.downscale(model, 20, target_size=28)
    image = torch.randn(2, 3, 20, 20)
    pools = [{"ceil_mode": True}, {"ceil_mode": False}]
    expected = by_hand(small, image, [0, 1, 0, -1, 0, 1, -1], pools)
    torch.testing.assert_close(small(image), expected)
    kept = small.get_submodule("6")
    assert (kept.padding, kept.ceil_mode) == (0, False)
    assert (pool.padding, pool.ceil_mode) == (0, False)


@pytest.mark.parametrize("function", [False, True])
def test_axes_that_disagree_get_a_pad_of_minus_infinity(function: bool) -> None:
    """7 and 11 pixels: of the 7 the last window is completed, of the 11 it is left out."""
    body: Any = lambda m, x: F.max_pool2d(x, 2) if function else m.pool(x)
    model = Around(body, conv=nn.Conv2d(3, 4, 3), pool=nn.MaxPool2d(2))
    small = fxscale.downscale(model, (8, 12), target_size=(16, 17))
    (pool,) = small.plan.pools
    assert pool.pretrain_padding == ((0, 1), (0, 0))
    assert small.plan.pad_operators == (pool.node,)
    with torch.no_grad():
        small.get_parameter("conv.bias").fill_(-100)  # a padding of zeros would show
    image = torch.randn(2, 3, 8, 12)
    maps = F.conv2d(image, small.get_parameter("conv.weight"), small.get_parameter("conv.bias"))
    assert maps.shape[2:] == (7, 11)
    rows = torch.cat([F.max_pool2d(maps[..., :6, :], 2), F.max_pool2d(maps[..., 6:, :], (1, 2))], 2)
    torch.testing.assert_close(small(image), rows)


def test_average_pools_keep_their_padding() -> None:
    small = fxscale.downscale(blocks(2, nn.AvgPool2d(2), 3), 10, target_size=14)
    assert small.plan.pools == ()
    assert small.plan.feature_maps[-1].pretrain_size == (5, 5)


def test_pools_whose_indices_are_read_keep_their_padding() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        maps = m.three(x)
        values, indices = F.max_pool2d(maps, 2, return_indices=True)
        result: Tensor = F.max_unpool2d(values, indices, 2, output_size=maps.shape[2:])
        return result

    three = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
    small = fxscale.downscale(Around(body, three=three), 10, target_size=14)
    assert small.plan.pools == ()


@pytest.mark.parametrize("size", [(2, 1), (1, 2)])
def test_an_axis_that_no_window_runs_along_has_no_padding(size: tuple[int, int]) -> None:
    model = Around(lambda m, x: m.pool(x), conv=nn.Conv2d(3, 4, 3), pool=nn.MaxPool2d(size))
    small = fxscale.downscale(model, 8, target_size=16)
    (pool,) = small.plan.pools
    expected = tuple((0, 1) if side == 2 else (0, 0) for side in size)
    assert pool.pretrain_padding == expected
    image = torch.randn(2, 3, 8, 8)
    maps = F.conv2d(image, small.get_parameter("conv.weight"), small.get_parameter("conv.bias"))
    torch.testing.assert_close(small(image), F.max_pool2d(maps, size, ceil_mode=True))


def test_a_pool_that_counts_its_own_size_is_left_alone() -> None:
    """Along one axis it covers the map, and stays global: its padding has no other axis to fit."""
    model = blocks(2, nn.MaxPool2d((14, 2)), 3)
    small = fxscale.downscale(model, 10, target_size=14)
    assert small.plan.pools == ()


@given(
    length=st.integers(8, 30),
    kernel_size=st.integers(1, 5),
    stride=st.integers(1, 4),
    own=st.integers(0, 2),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
)
def test_paddings_on_offer_are_ones_that_torch_has(
    length: int, kernel_size: int, stride: int, own: int, dilation: int, ceil_mode: bool
) -> None:
    pool = window(
        kernel_size=kernel_size,
        stride=stride,
        padding=(min(own, kernel_size // 2),) * 2,
        dilation=dilation,
        ceil_mode=ceil_mode,
        adjustable="pool",
    )
    ramp = torch.arange(length, dtype=torch.float64).view(1, 1, -1)
    offered = list(pool_paddings(pool))
    assert pool.padding in offered
    assert len(offered) == len(set(offered))
    for before, after in offered:
        grid = through_window(image_grid(length), pool, kernel_size, (before, after))
        mode = ceil_mode or after > before
        pooled: Any = partial(F.max_pool1d, ceil_mode=mode, dilation=dilation)
        last = pooled(ramp, kernel_size, stride, before).flatten()
        first = -pooled(-ramp, kernel_size, stride, before).flatten()
        assert grid is not None
        assert grid.length == last.numel()
        assert last.isfinite().all()  # no window lies in the padding alone
        whole = last - first == dilation * (kernel_size - 1)
        looks = grid.offset + grid.step * torch.arange(grid.length, dtype=torch.float64)
        torch.testing.assert_close(((first + last) / 2)[whole], looks[whole])


def test_the_target_s_own_padding_stays_where_nothing_is_won() -> None:
    model = blocks(2, nn.MaxPool2d(3, 2, 1), 2, 2)
    small = fxscale.downscale(model, 20, target_size=28)
    assert small.plan.pools == ()
    assert_same_outputs(
        fxscale.downscale(model, 28, target_size=28, keep=["*"]), model, torch.randn(1, 3, 28, 28)
    )
