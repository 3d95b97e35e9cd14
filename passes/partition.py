"""How long the parts of a split axis are in the pre-train network, and which lengths can be split.

Along one axis of pre-train length L, in this order:

1. parts that must keep their length (channels) do, and divide L;
2. of the others one scales: a part whose length the model names (the window in
   `view(B, H // 7, 7, ...)`), so that the number of windows stays;
3. where that does not divide, another one: the windows keep their size and their number scales.

At 224 -> 160 px the maps 56, 28, 14, 7 become 40, 20, 10, 5: as many windows of 5 as there were
of 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from math import inf, prod

from fxscale.passes.axes import Axis, Event, Split
from fxscale.passes.grids import Grid

SECOND_CHOICE = 0.5
"""What a split costs in which it is not the first choice that scales, as in `passes/chains.py`."""


def part_lengths(split: Split, length: int) -> tuple[int, ...] | None:
    """Pre-train lengths of the parts of an axis of pre-train length `length`, if it divides."""
    return next((lengths for _, lengths in _ways(split, length)), None)


def split_cost(split: Split, length: int) -> float:
    """Zero for the first choice, infinite for a length that does not divide."""
    return next((SECOND_CHOICE * rank for rank, _ in _ways(split, length)), inf)


def _ways(split: Split, length: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    free = [index for index, part in enumerate(split.parts) if part.spatial]
    order = sorted(free, key=lambda index: (not split.given[index], -index))
    for rank, scaled in enumerate(order):
        others = prod(p.target for i, p in enumerate(split.parts) if i != scaled)
        quotient, rest = divmod(length, others)
        least = 2 if split.given[scaled] else 1  # one window will do, but not one of one pixel
        if rest == 0 and quotient >= min(least, split.parts[scaled].target):
            yield (
                rank,
                tuple(quotient if i == scaled else p.target for i, p in enumerate(split.parts)),
            )


def dividing_sizes(events: Iterable[Event], target: Mapping[Axis, Grid], image: int) -> list[int]:
    """Input lengths below `image`, smallest first, at which all splits divide without any padding.

    `target` holds the grids of the target network, whose input is `image` pixels long. All of them
    divide where nothing is split.
    """
    splits = [e for e in events if isinstance(e, Split) and target[e.source].image == image]
    return [
        size for size in range(1, image) if all(_divides(s, Fraction(size, image)) for s in splits)
    ]


def _divides(split: Split, ratio: Fraction) -> bool:
    length = split.source.target * ratio
    return length.denominator == 1 and part_lengths(split, int(length)) is not None
