"""Constants of the target whose place on a feature map shows only behind further operators.

In `einsum("byhwc,hkc->byhwk", queries, table[far])` the dimension `h` of the looked-up table meets
the rows of the map at once, but `k` stands for the rows of the keys only where the result is added
to the attention weights, `(B) (heads) (H) (W) (K) (L)`. Until then it is a fixed axis of the
constant. Where such an axis meets a spatial one, the dimension that it stands for is noted; the
walk goes on to find more of them, and the annotate pass begins anew with what was found.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from fxscale.passes.annotations import fixed_annotation, fixed_dims
from fxscale.passes.axes import Annotation, Axis, Dim, Shape, is_spatial, target_length
from fxscale.passes.tracer import VALUE

Place = tuple[fx.Node, int]
"""A dimension of the tensor that a node computes; the same in every walk over one graph."""


class LaidConstants:
    """The constants of one walk: `known` from earlier walks, `found` in this one."""

    def __init__(
        self, known: Mapping[Place, Place], annotations: Mapping[fx.Node, Annotation]
    ) -> None:
        self.known = known
        self.found: dict[Place, Place] = {}
        self._annotations = annotations
        self._places: dict[Axis, Place] = {}
        self._laid: list[fx.Node] = []

    def annotate(self, node: fx.Node) -> Annotation:
        """The annotation of a constant: fixed, but for the dimensions that are known to be laid."""
        value = node.meta[VALUE]
        if not isinstance(value, torch.Tensor):
            return fixed_annotation(value)
        dims = list(fixed_dims(value.shape))
        for index, dim in enumerate(dims):
            laid = self._known_dim((node, index))
            if laid is not None and target_length(laid) == target_length(dim):
                dims[index] = laid
                self._laid.append(node)
            elif dim:
                self._places[dim[0]] = (node, index)
        return Shape(tuple(dims))

    def as_computed(self) -> dict[fx.Node, Annotation]:
        """What the nodes of laid constants compute themselves: the target's constants.

        Only what their users read has been resized; state is resized itself.
        """
        return {
            node: fixed_annotation(node.meta[VALUE]) for node in self._laid if node.op != "get_attr"
        }

    def lay(self, dim: Dim, over: Dim) -> bool:
        """Note that `dim` stands for the spatial dimension `over`; whether it can."""
        place = self._places.get(dim[0]) if len(dim) == 1 else None
        if place is None:
            return False
        if place not in self.found:
            source = self._first(over, before=place[0])
            if source is None or place in self.known:
                return False
            self.found[place] = source
        return True

    def _known_dim(self, place: Place) -> Dim | None:
        node, index = self.known.get(place, (None, 0))
        annotation = self._annotations.get(node) if node is not None else None
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
