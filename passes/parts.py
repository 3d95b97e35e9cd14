"""Axes that a view takes apart (windows, patches, space to depth) and puts together again.

`view(B, H // 7, 7, W // 7, 7, C)` makes two parts of each spatial axis: the number of windows and
the window. Both are axes of their own. Where the parts stand side by side in one dimension again,
they are the axis that they were taken from; where something has happened to a part on the way (a
convolution within the window), a `Merge` makes a new axis of them.

By default one of the parts scales (`passes/partition.py`). A part that becomes channels, or that is
taken item by item, must keep its length instead. That shows only behind the view, so whoever finds
out raises `KeepLengthError`, and the annotate pass starts anew with that part as a fixed axis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from fxscale.passes.axes import Axis, Dim, Event, Merge, Split

PartKey = tuple[fx.Node, int, int]
"""A part, the same in every run over one graph: the view, which of its splits, which part."""


@dataclass(frozen=True)
class Halo:
    """Dimension `dim` of what the pad `node` computes holds blocks of this size with a halo."""

    node: fx.Node
    dim: int
    block: int


@dataclass(frozen=True)
class Unflattening:
    """The output features of the layer with this weight are viewed as `lengths`.

    For every `(index, place)` of `pixels`, those at `index` lie along the axis `place` of an image
    of `rank` axes.
    """

    weight: str
    lengths: tuple[int, ...]
    rank: int
    pixels: tuple[tuple[int, int], ...]


Finding = PartKey | Halo | Unflattening
"""What shows only behind the place where it must be known."""


class KeepLengthError(Exception):
    """Some parts turn out to be of fixed length, a pad to be a halo, or features to be pixels."""

    def __init__(self, parts: Iterable[Finding]) -> None:
        super().__init__()
        self.parts = frozenset(parts)


class Parts:
    """The splits of one run of the annotate pass; events go to `events`."""

    def __init__(self, kept: frozenset[Finding], events: list[Event]) -> None:
        self.kept = kept
        self.events = events
        self._splits: dict[tuple[Axis, tuple[int, ...]], Split] = {}
        self._places: dict[Axis, tuple[Split, int]] = {}
        self._keys: dict[Axis, PartKey] = {}
        self._counts: Counter[fx.Node] = Counter()
        self._merged: dict[Dim, Axis] = {}

    def split(
        self, node: fx.Node, source: Axis, lengths: Sequence[int], given: Sequence[bool]
    ) -> tuple[Axis, ...]:
        """The parts of an axis; the same axis split in the same way has the same parts.

        `given` says of each part whether the model names its length, as the 7 above.
        """
        known = self._splits.get((source, tuple(lengths)))
        if known is not None:
            return known.parts
        number = self._counts[node]
        self._counts[node] += 1
        keys: list[PartKey] = [(node, number, index) for index in range(len(lengths))]
        parts = tuple(
            Axis(length, spatial=key not in self.kept)
            for length, key in zip(lengths, keys, strict=True)
        )
        split = Split(node, source, parts, tuple(given))
        self._splits[source, tuple(lengths)] = split
        self._places |= {part: (split, index) for index, part in enumerate(parts)}
        self._keys |= {p: key for p, key in zip(parts, keys, strict=True) if p.spatial}
        self.events.append(split)
        return parts

    def halo_at(self, node: fx.Node, dim: int) -> int | None:
        """The size of the blocks around which a pad makes a halo."""
        halos = (key for key in self.kept if isinstance(key, Halo))
        return next((h.block for h in halos if (h.node, h.dim) == (node, dim)), None)

    def derive(self, source: Axis, out: Axis) -> None:
        """`out` is made from `source` and takes its place among the parts."""
        if source in self._places:
            self._places.setdefault(out, self._places[source])

    def merge(self, node: fx.Node, dim: Dim) -> Dim:
        """The same dimension, with whole axes for all of their parts in order."""
        for start, axis in enumerate(dim):
            split, index = self._places.get(axis, (None, 0))
            if split is None or index:
                continue
            group = dim[start : start + len(split.parts)]
            if not self._stand_for(split, group):
                continue
            whole = split.source if group == split.parts else self._merge(node, split, group)
            return self.merge(node, (*dim[:start], whole, *dim[start + len(group) :]))
        return dim

    def _stand_for(self, split: Split, group: Dim) -> bool:
        """Whether axes are what has become of all the parts of a split, in order.

        A map of another origin may stand in for a part of its length: attention may have its
        queries from elsewhere.
        """
        if len(group) != len(split.parts):
            return False
        return all(
            self._places.get(axis, (split, index)) == (split, index)
            and (axis.target, axis.spatial) == (part.target, part.spatial)
            for index, (axis, part) in enumerate(zip(group, split.parts, strict=True))
        )

    def _merge(self, node: fx.Node, split: Split, group: Dim) -> Axis:
        if group not in self._merged:
            out = self._merged[group] = Axis(split.source.target, spatial=True)
            self.events.append(Merge(node, group, out, split.source))
            self.derive(split.source, out)
        return self._merged[group]

    def keep(self, dim: Dim) -> None:
        """The parts in `dim` must keep their length; starts anew if they do not yet.

        Nothing happens where all parts of an axis are there: together they can only scale.
        """
        parts = [axis for axis in dim if axis in self._keys]
        found = Counter(self._places[part][0] for part in parts)
        loose = [p for p in parts if found[self._places[p][0]] < len(self._free(p))]
        if loose:
            raise KeepLengthError(self._keys[part] for part in loose)

    def keep_given(self, axes: Iterable[Axis]) -> None:
        """Start anew with the named lengths among `axes` kept, if there are any."""
        keys = set()
        for axis in axes:
            split, index = self._places.get(axis, (None, 0))
            if split is None or not split.given[index]:
                continue
            part = split.parts[index]
            if part in self._keys and len(self._free(part)) > 1:
                keys.add(self._keys[part])
        if keys:
            raise KeepLengthError(keys)

    def _free(self, part: Axis) -> list[Axis]:
        """All parts of the same split that have not been kept."""
        return [axis for axis in self._places[part][0].parts if axis.spatial]
