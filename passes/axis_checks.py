"""What an axis must be for a window to run over it, or for something to be laid over it."""

from __future__ import annotations

from torch import fx

from fxscale.passes.axes import Axis, Row
from fxscale.passes.concatenations import Concatenation
from fxscale.passes.distances import Distances
from fxscale.passes.halos import Bordered
from fxscale.passes.ops.registry import describe
from fxscale.passes.refusal import refusal


def refuse_kernel(node: fx.Node, axis: Axis) -> None:
    """Refuse the axis of a kernel: the geometry of maps says nothing about it.

    Raises `UnsupportedModelError`.
    """
    if axis.kernel:
        raise refusal(
            node,
            f"{node.name!r} changes a kernel's size, or joins kernels of different layers",
            remedy="name the layer in keep, which leaves its kernel as it is",
        )


def refuse_meeting(node: fx.Node, axis: Axis) -> None:
    """Refuse an axis that no other one can meet: a kernel's, or that of other distances.

    Raises `UnsupportedModelError`.
    """
    refuse_kernel(node, axis)
    if isinstance(axis, Distances | Bordered):
        require_map(node, axis)


def require_map(node: fx.Node, source: Axis) -> None:
    """Refuse an axis that is not one axis of a map: concatenated parts, a row of pixels, distances.

    Raises `UnsupportedModelError`.
    """
    if isinstance(source, Row):
        raise refusal(
            node,
            f"{describe(node, None)} meets the pixels of a flattened map, pooled as {source}",
            remedy="pool before flattening",
        )
    if isinstance(source, Distances):
        raise refusal(
            node,
            f"{describe(node, None)} runs over the distances of a table of relative positions",
            remedy="multiply the queries with the table, and read the distances of their pixels",
        )
    if isinstance(source, Bordered):
        raise refusal(
            node,
            f"{describe(node, None)} runs over a padded map of which overlapping windows are taken",
            remedy="pad the map once more",
        )
    if isinstance(source, Concatenation):
        raise refusal(
            node,
            f"{describe(node, None)} runs over maps that lie one behind the other, {source}",
            remedy="call it on each map, then concatenate",
        )
