"""The geometry pass: against exhaustive search, and where paths meet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxscale
from fxscale.passes import chains, geometry
from fxscale.passes.axes import Join, Window
from fxscale.passes.kernels import paper_kernel
from tests.passes.networks import solved

# Exhaustive search in one dimension, written from the documented costs.


@dataclass(frozen=True)
class Layer:
    """A convolution, or a pool where `pool` is set."""

    kernel_size: int
    stride: int = 1
    padding: int = 0
    pool: bool = False

    def module(self) -> nn.Module:
        if self.pool:
            return nn.MaxPool1d(self.kernel_size, self.stride, self.padding)
        return nn.Conv1d(1, 1, self.kernel_size, self.stride, self.padding)

    @property
    def pretrain_kernel_size(self) -> int:
        if self.pool:
            return self.kernel_size
        return max(paper_kernel(self.kernel_size), min(self.kernel_size, self.stride))

    def paddings(self) -> Iterator[tuple[int, int]]:
        """From a crop of one pixel to `k' - 1`, the sides differing by one at most.

        Of a pool what torch offers: up to half the kernel, and as much more behind the map as
        `ceil_mode` takes at most.
        """
        if self.pool:
            for amount in range(self.kernel_size // 2 + 1):
                yield amount, amount
                yield amount, amount + self.stride - 1
            return
        most = max(self.padding, self.pretrain_kernel_size - 1)
        for before, after in itertools.product(range(-1, most + 2), repeat=2):
            if before <= most and abs(before - after) <= 1:
                yield before, after


@dataclass(frozen=True)
class Map:
    """A map of `length` pixels whose first looks at `first`, each next one `step` further."""

    length: int
    step: float = 1.0
    first: float = 0.0

    def behind(
        self, kernel_size: int, stride: int, padding: tuple[int, int], *, pool: bool = False
    ) -> Map | None:
        if self.length < 1 or self.length + sum(padding) < max(kernel_size, 1):
            return None
        if pool:
            ceil_mode = padding[1] > padding[0]
            signal = torch.zeros(1, 1, self.length)
            pooled = F.max_pool1d(signal, kernel_size, stride, padding[0], ceil_mode=ceil_mode)
        else:
            signal = torch.zeros(1, 1, self.length + sum(padding))
            pooled = F.max_pool1d(signal, kernel_size, stride)
        length = pooled.shape[-1]
        middle_of_first_window = (kernel_size - 1) / 2 - padding[0]
        return Map(length, self.step * stride, self.first + self.step * middle_of_first_window)

    def off_centre(self, image: int) -> float:
        return (self.first + self.step * (self.length - 1) / 2 - (image - 1) / 2) / self.step


@dataclass(frozen=True)
class Problem:
    """A chain of layers over `image` pixels, in the pre-train network over `small` pixels."""

    layers: tuple[Layer, ...]
    image: int
    small: int

    def target_maps(self) -> list[Map]:
        maps = [Map(self.image)]
        for layer in self.layers:
            behind = maps[-1].behind(layer.kernel_size, layer.stride, (layer.padding,) * 2)
            assert behind is not None
            maps.append(behind)
        return maps[1:]

    def drift(self, small: Map, target: Map) -> float:
        return small.off_centre(self.small) - target.off_centre(self.image)

    def map_cost(self, small: Map, target: Map, *, last: bool) -> float:
        ideal = target.length * self.small / self.image
        relative = (small.length - ideal) / ideal
        off = self.drift(small, target)
        over = chains.OVER_LIMIT_COST if abs(off) > chains.DRIFT_LIMIT + 1e-6 else 0.0
        short = small.length < chains.FEW or (last and relative < -chains.BORDER)
        wrong = 2 * abs(relative) if short else max(0.0, relative)
        size = chains.SIZE_COST * relative**2 + chains.LARGER_COST * wrong
        return size + chains.DRIFT_COST * off**2 + over

    def cost(self, paddings: Sequence[tuple[int, int]]) -> tuple[float, list[Map]] | None:
        """Cost of these paddings and the maps they lead to; `None` where no pixel is left."""
        total, maps = 0.0, [Map(self.small)]
        for layer, target, padding in zip(self.layers, self.target_maps(), paddings, strict=True):
            if not layer.pool and layer.pretrain_kernel_size > maps[-1].length:
                return None
            behind = maps[-1].behind(
                layer.pretrain_kernel_size, layer.stride, padding, pool=layer.pool
            )
            if behind is None:
                return None
            maps.append(behind)
            total += self.map_cost(behind, target, last=len(maps) > len(self.layers))
            even = layer.pool or padding[0] == padding[1] >= 0
            total += 0.0 if even else chains.PAD_COST
            total += chains.OWN_PADDING * sum(abs(p - layer.padding) for p in padding)
        return total, maps[1:]

    def search(self) -> Iterator[tuple[float, list[Map]]]:
        for paddings in itertools.product(*(layer.paddings() for layer in self.layers)):
            found = self.cost(paddings)
            if found is not None:
                yield found


def chosen_paddings(model: nn.Module, problem: Problem) -> list[tuple[int, int]]:
    network, _, solution = solved(model, problem.image, problem.small)
    windows = [event for event in network.events if isinstance(event, Window)]
    assert len(windows) == len(problem.layers)
    return [solution.paddings[window] for window in windows]


layers = st.builds(
    Layer,
    kernel_size=st.sampled_from([3, 3, 5, 7]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 3),
)
pools = st.builds(
    Layer,
    kernel_size=st.sampled_from([2, 3]),
    stride=st.just(2),
    padding=st.integers(0, 1),
    pool=st.just(True),
)


@settings(max_examples=40)
@given(
    st.lists(st.one_of(layers, layers, pools), min_size=1, max_size=3).filter(
        lambda drawn: not drawn[0].pool
    ),
    st.sampled_from([(56, 40), (60, 40), (77, 49), (64, 46)]),
)
def test_chains_cost_no_more_than_the_best_of_all_paddings(
    drawn: list[Layer], size: tuple[int, int]
) -> None:
    problem = Problem(tuple(drawn), *size)
    # Pooled behind the chain: a map that is returned has to have the input's ratio.
    model = nn.Sequential(*(layer.module() for layer in drawn), nn.AdaptiveAvgPool2d(1))
    found = problem.cost(chosen_paddings(model, problem))
    assert found is not None
    assert found[0] == pytest.approx(min(cost for cost, _ in problem.search()), abs=1e-9)


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize(("image", "small"), [(24, 16), (32, 22), (33, 21)])
def test_what_the_network_returns_has_the_ratio_of_the_input(
    kernel_size: int, image: int, small: int
) -> None:
    model = nn.Conv2d(3, 2, kernel_size, padding=kernel_size // 2)
    compiled = fxscale.downscale(model, small, target_size=image)
    assert compiled(torch.zeros(1, 3, small, small)).shape == (1, 2, small, small)


@pytest.mark.parametrize("small", [64, 77])
def test_blocks_of_a_network_that_returns_a_map_keep_its_size(small: int) -> None:
    stem = nn.Conv1d(3, 1, 3, padding=1)
    blocks = (Residual([Layer(3, padding=1)] * 2) for _ in range(3))
    compiled = fxscale.downscale(nn.Sequential(stem, *blocks), small, target_size=96)
    assert compiled(torch.zeros(1, 3, small)).shape == (1, 1, small)
    sums = [m for m in compiled.plan.feature_maps if m.node.startswith("add")]
    assert {m.pretrain_size for m in sums} == {(small,)}


class Residual(nn.Module):
    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.body = nn.Sequential(*(layer.module() for layer in layers))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


@pytest.mark.parametrize("size", [(56, 40), (28, 20), (64, 46), (33, 21)])
@pytest.mark.parametrize(
    "kernels", [(3,), (5,), (7,), (3, 3), (3, 5), (5, 3), (7, 3), (3, 3, 3), (5, 3, 3), (3, 3, 5)]
)
def test_residual_blocks_cost_no_more_than_the_best_of_all_paddings(
    kernels: tuple[int, ...], size: tuple[int, int]
) -> None:
    problem = Problem(tuple(Layer(k, 1, k // 2) for k in kernels), *size)
    model = Residual(problem.layers)
    network, _, solution = solved(model, problem.image, problem.small)
    assert solution.adapters == ()
    (join,) = (event for event in network.events if isinstance(event, Join))
    assert solution.lengths[join.out] == problem.small

    target = problem.target_maps()[-1]

    def with_mismatch(cost: float, maps: Sequence[Map]) -> float:
        return cost + geometry.MISMATCH_COST * problem.drift(maps[-1], target) ** 2

    found = problem.cost(chosen_paddings(model, problem))
    assert found is not None
    best = min(
        with_mismatch(cost, maps)
        for cost, maps in problem.search()
        if maps[-1].length == problem.small
    )
    assert with_mismatch(*found) == pytest.approx(best, abs=1e-9)


# Joins.


class Skip(nn.Module):
    """A U-Net of one level: the way up meets what the way down left."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.down = nn.Conv2d(2, 2, 3, 2, 1)
        self.up = nn.Upsample(scale_factor=2)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        result: Tensor = self.last(torch.cat([x, self.up(F.relu(self.down(x)))], 1))
        return result


@pytest.mark.parametrize(("target", "small"), [(64, 46), (64, 44), (32, 22), (48, 34)])
def test_a_skip_meets_the_upsampled_map(target: int, small: int) -> None:
    network = fxscale.downscale(Skip(), small, target_size=target)
    maps = {m.node: m for m in network.plan.feature_maps}
    assert maps["cat"].pretrain_size == maps["first"].pretrain_size
    assert abs(maps["cat"].pretrain_size[0] - small) <= 1
    adapted = maps["up"].pretrain_size != maps["cat"].pretrain_size
    assert ("up -> cat" in network.plan.pad_operators) == adapted
    assert network(torch.zeros(2, 1, small, small)).shape[2:] == maps["last"].pretrain_size
    assert network.plan.max_drift <= 0.5


class Unequal(nn.Module):
    """Two ways of average pools, which keep their padding, from 16 to 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.slow = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2))
        self.fast = nn.AvgPool2d(3, 4, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        result: Tensor = self.slow(x) + self.fast(x)
        return result


@pytest.mark.parametrize("small", [10, 11, 12, 13, 14, 15])
def test_operands_that_no_padding_fits_get_an_adapter(small: int) -> None:
    slow, fast = small // 2 // 2, (small - 3) // 4 + 1
    network = fxscale.downscale(Unequal(), small, target_size=16)
    adapters = [name for name in network.plan.pad_operators if "->" in name]
    assert len(adapters) == (slow != fast)
    maps = {m.node: m for m in network.plan.feature_maps}
    out = network(torch.zeros(2, 1, small, small))
    assert tuple(out.shape[2:]) == maps["add"].pretrain_size
    assert maps["add"].pretrain_size[0] in (slow, fast)


def test_joins_far_apart_get_one_length() -> None:
    """Both convolutions could give 20 or 21 pixels; what meets later must agree now."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Sequential(nn.Conv1d(1, 1, 3, 2, 1), Residual([Layer(3, 1, 1)] * 2))
            self.right = nn.Sequential(nn.Conv1d(1, 1, 7, 2, 3), Residual([Layer(5, 1, 2)]))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.left(x) * self.right(x)
            return result

    plan = fxscale.downscale(Late(), 41, target_size=57).plan
    joins = [m for m in plan.feature_maps if m.node.startswith(("add", "mul"))]
    assert len(joins) >= 2
    assert len({m.pretrain_size for m in joins}) == 1
    assert not [name for name in plan.pad_operators if "->" in name]


@pytest.mark.parametrize(("target", "small"), [(24, 2), (12, 1)])
def test_vanishing_maps_are_refused(target: int, small: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 7, 2), nn.Conv2d(1, 1, 3))
    with pytest.raises(fxscale.SizeError, match="too few for a kernel of"):
        fxscale.downscale(model, small, target_size=target)
