"""Parts of split axes: shared, merged, kept."""

from __future__ import annotations

import pytest
from torch import fx

from fxscale.passes.axes import Axis, Event, Merge, Split
from fxscale.passes.parts import KeepLengthError, Parts

NODE = fx.Graph().placeholder("x")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def parts(events: list[Event]) -> Parts:
    return Parts(frozenset(), events)


SOURCE = Axis(12, spatial=True)
CHANNELS = Axis(5, spatial=False)


def test_the_same_split_has_the_same_parts(parts: Parts, events: list[Event]) -> None:
    first = parts.split(NODE, SOURCE, (3, 4), (False, True))
    assert [part.target for part in first] == [3, 4]
    assert parts.split(NODE, SOURCE, (3, 4), (True, True)) == first
    assert parts.split(NODE, SOURCE, (4, 3), (True, True)) != first
    assert [type(event) for event in events] == [Split, Split]


def test_parts_side_by_side_are_the_axis(parts: Parts) -> None:
    number, window = parts.split(NODE, SOURCE, (3, 4), (False, True))
    assert parts.merge(NODE, (CHANNELS, number, window)) == (CHANNELS, SOURCE)
    for dim in ((window, number), (number, CHANNELS, window), (number,), (window, window)):
        assert parts.merge(NODE, dim) == dim


def test_parts_of_parts(parts: Parts) -> None:
    number, window = parts.split(NODE, SOURCE, (3, 4), (False, True))
    left, right = parts.split(NODE, window, (2, 2), (True, True))
    assert parts.merge(NODE, (number, left, right)) == (SOURCE,)


def test_a_changed_part_makes_a_new_axis(parts: Parts, events: list[Event]) -> None:
    number, window = parts.split(NODE, SOURCE, (3, 4), (False, True))
    convolved = Axis(4, spatial=True)
    parts.derive(window, convolved)
    (whole,) = parts.merge(NODE, (number, convolved))
    assert whole is not SOURCE
    assert whole.target == 12
    assert parts.merge(NODE, (number, convolved)) == (whole,)
    (merge,) = (event for event in events if isinstance(event, Merge))
    assert (merge.parts, merge.out, merge.source) == ((number, convolved), whole, SOURCE)


def test_a_map_of_another_origin_stands_in_for_a_part(parts: Parts) -> None:
    number, _ = parts.split(NODE, SOURCE, (3, 4), (False, True))
    (whole,) = parts.merge(NODE, (number, Axis(4, spatial=True)))
    assert whole.target == 12
    other, _ = parts.split(NODE, Axis(12, spatial=True), (4, 3), (False, True))
    assert parts.merge(NODE, (number, other)) == (number, other)  # windows beside windows
    fixed = (number, Axis(4, spatial=False))
    assert parts.merge(NODE, fixed) == fixed


def test_parts_beside_channels_are_kept(parts: Parts, events: list[Event]) -> None:
    number, window = parts.split(NODE, SOURCE, (3, 4), (False, True))
    parts.keep((CHANNELS, SOURCE))
    parts.keep((CHANNELS, number, window))  # together they can only scale
    with pytest.raises(KeepLengthError) as info:
        parts.keep((CHANNELS, window))
    again = Parts(info.value.parts, events)
    number, window = again.split(NODE, SOURCE, (3, 4), (False, True))
    assert (number.spatial, window.spatial) == (True, False)
    again.keep((CHANNELS, window))
    again.keep((CHANNELS, number))  # the last one that can scale
    assert again.merge(NODE, (number, window)) == (SOURCE,)


def test_named_lengths_are_kept_on_demand(parts: Parts) -> None:
    number, window = parts.split(NODE, SOURCE, (3, 4), (False, True))
    parts.keep_given([SOURCE, number])
    with pytest.raises(KeepLengthError) as info:
        parts.keep_given([number, window])
    assert info.value.parts == {(NODE, 0, 1)}
