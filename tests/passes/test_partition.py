"""How long the parts of a split axis are, and which lengths can be split."""

from __future__ import annotations

from math import inf, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from fxscale.passes.axes import Axis, Split
from fxscale.passes.grids import target_grids
from fxscale.passes.partition import dividing_sizes, part_lengths, split_cost
from tests.passes.networks import Around, annotated

NODE = fx.Graph().placeholder("x")


def split(lengths: tuple[int, ...], given: tuple[bool, ...], fixed: tuple[int, ...] = ()) -> Split:
    parts = tuple(Axis(n, spatial=index not in fixed) for index, n in enumerate(lengths))
    return Split(NODE, Axis(prod(lengths), spatial=True), parts, given)


@pytest.mark.parametrize(
    ("lengths", "given", "fixed", "length", "expected"),
    [
        ((8, 7), (False, True), (), 40, (8, 5)),  # as many windows, each smaller
        ((7, 8), (True, False), (), 40, (5, 8)),  # a grid of windows
        ((8, 7), (False, True), (), 42, (6, 7)),  # fewer windows of the same size
        ((8, 7), (False, True), (), 41, None),
        ((56, 4), (False, True), (1,), 160, (40, 4)),  # blocks that become channels
        ((56, 4), (False, True), (1,), 158, None),
        ((6, 2), (False, True), (), 6, (3, 2)),  # no windows of one pixel
        ((4, 7), (False, True), (), 7, (1, 7)),  # but a single window
        ((2, 3, 4), (False, False, True), (), 18, (2, 3, 3)),
        ((2, 3, 4), (False, False, True), (0,), 16, (2, 2, 4)),
        ((2, 3, 4), (False, True, True), (0, 1, 2), 24, None),
    ],
)
def test_part_lengths(
    lengths: tuple[int, ...],
    given: tuple[bool, ...],
    fixed: tuple[int, ...],
    length: int,
    expected: tuple[int, ...] | None,
) -> None:
    assert part_lengths(split(lengths, given, fixed), length) == expected
    assert (split_cost(split(lengths, given, fixed), length) == inf) == (expected is None)


def test_the_first_choice_costs_nothing() -> None:
    windows = split((8, 7), (False, True))
    assert split_cost(windows, 40) == 0 < split_cost(windows, 42) < inf


@given(
    lengths=st.lists(st.integers(2, 9), min_size=2, max_size=4).map(tuple),
    fixed=st.sets(st.integers(0, 3)),
    length=st.integers(1, 400),
)
def test_parts_multiply_to_the_length_and_only_one_changes(
    lengths: tuple[int, ...], fixed: set[int], length: int
) -> None:
    event = split(lengths, (True,) * len(lengths), tuple(fixed))
    found = part_lengths(event, length)
    if found is None:
        free = [i for i in range(len(lengths)) if i not in fixed]
        rest = [prod(lengths) // lengths[i] for i in free]
        assert not any(length % r == 0 and length // r >= 2 for r in rest)
        return
    assert prod(found) == length
    changed = [i for i, (a, b) in enumerate(zip(lengths, found, strict=True)) if a != b]
    assert len(changed) <= 1
    assert not fixed.intersection(changed)


def test_dividing_sizes() -> None:
    network = annotated(Around(lambda m, x: x.view(2, 4, 3, 4, 12)), 12)
    # Three windows of 4, both named: multiples of 3 or of 4, but no part of one pixel.
    assert dividing_sizes(network.events, target_grids(network), 12) == [6, 8, 9]
    plain = annotated(Around(lambda m, x: x), 12)
    assert dividing_sizes(plain.events, target_grids(plain), 12) == list(range(1, 12))
