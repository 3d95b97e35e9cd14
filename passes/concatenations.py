"""Dimensions that lie one behind the other along an axis: equal parts make an equal axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fxscale.passes.axes import (
    Axis,
    Dim,
    Lengths,
    fixed_dim,
    is_spatial,
    map_axes,
    pretrain_length,
    pretrain_lengths,
    target_length,
)


@dataclass(frozen=True, eq=False)
class Concatenation(Axis):
    """An axis along which dimensions lie one behind the other.

    Class token and pixels, `cat([token, x.flatten(2).mT], 1)`, are `[1 + ~14 ~14]`: 1 + 14 * 14.
    """

    parts: tuple[Dim, ...] = ()

    def length(self, lengths: Lengths) -> int:
        return sum(pretrain_length(part, lengths) for part in self.parts)

    def maps(self) -> Iterator[Axis]:
        return (axis for part in self.parts for axis in map_axes(part))

    def __repr__(self) -> str:
        return "[" + " + ".join(" ".join(map(repr, part)) or "1" for part in self.parts) + "]"


def parts_of(dim: Dim) -> tuple[Dim, ...]:
    """What lies one behind the other along a dimension; the dimension alone, where nothing does."""
    axis = dim[0] if len(dim) == 1 else None
    return axis.parts if isinstance(axis, Concatenation) else (dim,)


def part_lengths(
    dim: Dim, lengths: Lengths | None = None
) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
    """The lengths of the axes of a dimension, part by part where several lie along it.

    Without `lengths`, those of the target.
    """
    parts = tuple(
        tuple(axis.target for axis in part) if lengths is None else pretrain_lengths(part, lengths)
        for part in parts_of(dim)
    )
    return parts if len(parts) > 1 else parts[0]


class Concatenations:
    """Those of one run of the annotate pass."""

    def __init__(self) -> None:
        self._known: dict[tuple[Dim | int, ...], Concatenation] = {}

    def of(self, parts: Sequence[Dim]) -> Dim:
        """The dimension in which these lie one behind the other."""
        flat: list[Dim] = []
        for part in parts:
            for piece in parts_of(part):
                if flat and not is_spatial(flat[-1]) and not is_spatial(piece):
                    flat[-1] = fixed_dim(target_length(flat[-1]) + target_length(piece))
                else:
                    flat.append(piece if is_spatial(piece) else fixed_dim(target_length(piece)))
        if len(flat) < 2:
            return flat[0] if flat else fixed_dim(0)
        key = tuple(part if is_spatial(part) else target_length(part) for part in flat)
        if key not in self._known:
            length = sum(map(target_length, flat))
            self._known[key] = Concatenation(length, spatial=True, parts=tuple(flat))
        return (self._known[key],)
