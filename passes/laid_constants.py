"""Constants of the target whose place on a feature map shows only behind further operators.

In `einsum("byhwc,hkc->byhwk", queries, table[far])` the dimension `h` of the looked-up table meets
the rows of the map at once, but `k` stands for the rows of the keys only where the result is added
to the attention weights, `(B) (heads) (H) (W) (K) (L)`. Until then it is a fixed axis of the
constant. Where such an axis meets a spatial one, the dimension that it stands for is noted; the
walk goes on to find more of them, and the annotate pass begins anew with what was found.

The columns of relative positions (`passes/distances.py`) are such axes, too, though no constant's:
until they meet the keys, nothing says what they are. Once they are known, so are the two ends of
the distances, and with them the dimension of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from fxscale.passes.annotations import fixed_annotation, fixed_dims
from fxscale.passes.axes import Annotation, Axis, Dim, Shape, fixed_dim, is_spatial, target_length
from fxscale.passes.distances import Distances
from fxscale.passes.proxies import VALUE

Place = tuple[fx.Node, int]
"""A dimension of the tensor that a node computes; the same in every walk over one graph."""


@dataclass(frozen=True)
class Between:
    """What distances lie between: `Distances`, with the places of its axes."""

    rows: Place
    columns: Place
    first: int


Laid = Place | Between


class LaidConstants:
    """The constants of one walk: `known` from earlier walks, `found` in this one."""

    def __init__(
        self, known: Mapping[Place, Laid], annotations: Mapping[fx.Node, Annotation]
    ) -> None:
        self.known = known
        self.found: dict[Place, Laid] = {}
        self._annotations = annotations
        self._places: dict[Axis, Place] = {}
        self._laid: list[fx.Node] = []
        self._distances: dict[tuple[int, Axis, Axis, int], Distances] = {}

    def annotate(self, node: fx.Node) -> Annotation:
        """The annotation of a constant: fixed, but for the dimensions that are known to be laid."""
        value = node.meta[VALUE]
        if not isinstance(value, torch.Tensor):
            return fixed_annotation(value)
        dims = list(fixed_dims(value.shape))
        for index, dim in enumerate(dims):
            dims[index] = self.dim_at((node, index), target_length(dim))
            if is_spatial(dims[index]):
                self._laid.append(node)
        return Shape(tuple(dims))

    def dim_at(self, place: Place, length: int) -> Dim:
        """The dimension at a place: the one that it is known to stand for, or a fixed one."""
        laid = self._known_dim(place, length)
        if laid is not None and target_length(laid) == length:
            return laid
        dim = fixed_dim(length)
        if dim:
            self._places[dim[0]] = place
        return dim

    def as_computed(self) -> dict[fx.Node, Annotation]:
        """What the nodes of laid constants compute themselves: the target's constants.

        Only what their users read has been resized; state is resized itself.
        """
        return {
            node: fixed_annotation(node.meta[VALUE]) for node in self._laid if node.op != "get_attr"
        }

    def lay(self, dim: Dim, over: Dim) -> bool:
        """Note that `dim` stands for the spatial dimension `over`; whether it can."""
        if len(dim) > 1:  # axis by axis, as they were flattened
            pairs = [(a, b) for a, b in zip(dim, over, strict=False) if b.spatial and not a.spatial]
            alike = [axis.target for axis in dim] == [axis.target for axis in over]
            return alike and all(self.lay((axis,), (other,)) for axis, other in pairs)
        place = self._places.get(dim[0])
        if place is None:
            return False
        if place not in self.found:
            source = self._first(over, before=place[0])
            if source is None or place in self.known:
                return False
            self.found[place] = source
        return True

    def lay_distances(self, entries: Dim, rows: Dim, columns: Place, first: int) -> bool:
        """Note that `entries` are the distances between `rows` and the known `columns`."""
        place = self._places.get(entries[0]) if len(entries) == 1 else None
        if place is None:
            return False
        start, end = self._first(rows, before=place[0]), self.known.get(columns)
        if start is None or end is None or isinstance(end, Between):
            return False
        between = Between(start, end, first)
        if place in self.known:
            return False
        return self.found.setdefault(place, between) == between

    def _known_dim(self, place: Place, length: int) -> Dim | None:
        known = self.known.get(place)
        if known is None:
            return None
        if not isinstance(known, Between):
            return self._dim_of(known)
        rows, columns = self._dim_of(known.rows), self._dim_of(known.columns)
        if rows is None or columns is None or len(rows) > 1 or len(columns) > 1:
            return None
        key = (length, rows[0], columns[0], known.first)
        if key not in self._distances:
            self._distances[key] = Distances(
                length, spatial=True, rows=rows[0], columns=columns[0], first=known.first
            )
        return (self._distances[key],)

    def _dim_of(self, place: Place) -> Dim | None:
        """The dimension at a place in this walk, if it is there already and scales."""
        node, index = place
        annotation = self._annotations.get(node)
        if not isinstance(annotation, Shape) or index >= len(annotation.dims):
            return None
        return annotation.dims[index] if is_spatial(annotation.dims[index]) else None

    def _first(self, dim: Dim, before: fx.Node) -> Place | None:
        """Where these very axes were first seen; `None` where the constant came earlier."""
        for node, annotation in self._annotations.items():
            if node is before:
                return None
            if isinstance(annotation, Shape) and dim in annotation.dims:
                return node, annotation.dims.index(dim)
        return None
