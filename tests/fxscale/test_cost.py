from __future__ import annotations

from itertools import product
from math import isclose, prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fxscale.cost import (
    Bounds,
    conv_macs,
    eq3_macs,
    eq4_bounds,
    linear_macs,
    relative_scale,
    scale_product,
)


def counted_macs(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, ...],
    output: tuple[int, ...],
    groups: int,
) -> int:
    """The loops of a convolution, with a counter in place of the multiplication."""
    count = 0
    for _ in range(out_channels):
        for _ in product(*map(range, output)):
            for _ in range(in_channels // groups):
                for _ in product(*map(range, kernel)):
                    count += 1
    return count


@pytest.mark.parametrize(
    ("channels", "kernel", "output", "groups"),
    [
        ((1, 1), (1,), (1,), 1),
        ((3, 4), (3,), (7,), 1),
        ((3, 5), (3, 2), (4, 6), 1),
        ((4, 6), (2, 3), (3, 5), 2),
        ((6, 6), (3, 3), (4, 4), 6),
        ((2, 3), (2, 1, 3), (2, 3, 4), 1),
    ],
)
def test_conv_macs_equal_counted_loops(
    channels: tuple[int, int], kernel: tuple[int, ...], output: tuple[int, ...], groups: int
) -> None:
    assert conv_macs(*channels, kernel, output, groups=groups) == counted_macs(
        *channels, kernel, output, groups
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolution_scatters_every_input_once_per_tap(stride: int) -> None:
    # With all weights and inputs one, the sum of the outputs is the number of products.
    layer = nn.ConvTranspose2d(4, 6, (3, 2), stride=stride, groups=2, bias=False)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        products = layer(torch.ones(1, 4, 5, 7)).sum().item()
    assert conv_macs(4, 6, (3, 2), (5, 7), groups=2) == products


def test_linear_macs() -> None:
    layer = nn.Linear(5, 7, bias=False)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        assert linear_macs(5, 7, rows=3) == layer(torch.ones(3, 5)).sum().item()


@pytest.mark.parametrize(
    ("kernel", "pretrain", "s", "s2", "s4"),
    [
        (1, 1, 1.00, 1.00, 1.00),
        (3, 2, 1.50, 2.25, 5.06),
        (5, 3, 1.67, 2.78, 7.72),  # the paper prints 2.77 and 7.71, the squares of rounded factors
        (7, 5, 1.40, 1.96, 3.84),
        (11, 7, 1.571, 2.469, 6.098),  # the paper prints 2.49, 6.09: 2.49 is a misprint
    ],
)
def test_table_1(kernel: int, pretrain: int, s: float, s2: float, s4: float) -> None:
    digits = 3 if kernel == 11 else 2
    (found,) = set(relative_scale((kernel, kernel), (pretrain, pretrain)))
    found_s2 = scale_product((kernel, kernel), (pretrain, pretrain))
    assert (round(found, digits), round(found_s2, digits), round(found_s2**2, digits)) == (
        s,
        s2,
        s4,
    )


def test_each_axis_has_its_own_factor() -> None:
    assert relative_scale((1, 7), (1, 5)) == (1.0, 1.4)
    assert scale_product((1, 7), (1, 5)) == 1.4
    assert isclose(scale_product((3, 3, 3), (2, 2, 2)), 1.5**3)


axes = st.integers(1, 3).flatmap(
    lambda rank: st.tuples(
        st.lists(st.integers(1, 11), min_size=rank, max_size=rank),
        st.lists(st.integers(0, 60), min_size=rank, max_size=rank),
    )
)


@given(axes, st.integers(1, 64), st.integers(1, 64))
def test_eq3_without_scaling_is_the_exact_count(
    case: tuple[list[int], list[int]], in_channels: int, out_channels: int
) -> None:
    kernel, margin = case
    size = [k + m for k, m in zip(kernel, margin, strict=True)]
    exact = conv_macs(in_channels, out_channels, kernel, [m + 1 for m in margin])
    assert isclose(eq3_macs(in_channels, out_channels, kernel, size, [1.0] * len(kernel)), exact)


@settings(deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=2),
)
def test_eq3_of_whole_sizes_is_the_counted_small_convolution(
    in_channels: int, factor: int, axes: list[tuple[int, int]]
) -> None:
    small = tuple(k for k, _ in axes)
    output = tuple(margin + 1 for _, margin in axes)
    kernel = [factor * k for k in small]
    size = [factor * (k + margin) for k, margin in axes]
    closed = eq3_macs(in_channels, 2, kernel, size, [factor] * len(axes))
    assert isclose(closed, counted_macs(in_channels, 2, small, output, 1))


@given(
    st.lists(
        st.tuples(st.integers(1, 15), st.integers(0, 200), st.floats(1.0, 4.0)),
        min_size=1,
        max_size=3,
    )
)
def test_eq4_bounds_hold_for_eq3(axes: list[tuple[int, int, float]]) -> None:
    kernel = [k for k, _, _ in axes]
    size = [k + margin for k, margin, _ in axes]
    scale = [s for _, _, s in axes]
    whole = eq3_macs(3, 8, kernel, size, [1.0] * len(axes))
    scaled = eq3_macs(3, 8, kernel, size, scale)
    bounds = eq4_bounds(whole, prod(scale))
    rounding = 1e-9 * whole
    assert bounds.low - rounding <= scaled <= bounds.high + rounding


def test_eq4_upper_bound_is_reached_when_the_kernel_covers_the_input() -> None:
    whole = eq3_macs(3, 8, (9, 9), (9, 9), (1.0, 1.0))
    assert isclose(eq3_macs(3, 8, (9, 9), (9, 9), (1.5, 1.5)), eq4_bounds(whole, 2.25).high)


def test_eq4_lower_bound_is_approached_on_large_maps_and_never_reached() -> None:
    whole = eq3_macs(3, 8, (3, 3), (100_000, 100_000), (1.0, 1.0))
    scaled = eq3_macs(3, 8, (3, 3), (100_000, 100_000), (1.5, 1.5))
    bounds = eq4_bounds(whole, 2.25)
    assert scaled in bounds
    assert isclose(scaled, bounds.low, rel_tol=1e-4)


def test_bounds_are_open_below_and_closed_above() -> None:
    assert 10 not in Bounds(10, 20)
    assert 20 in Bounds(10, 20)
    assert 21 not in Bounds(10, 20)
    assert 10 in eq4_bounds(10, 1.0)
