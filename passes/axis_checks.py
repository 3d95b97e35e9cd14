"""What an axis must be for a window to run over it, or for something to be laid over it."""

from __future__ import annotations

from torch import fx

from fxscale.passes.axes import Axis, Concatenation, Row
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


def require_map(node: fx.Node, source: Axis) -> None:
    """Refuse an axis that is not one axis of a map: parts of a concatenation, a row of pixels.

    Raises `UnsupportedModelError`.
    """
    if isinstance(source, Row):
        raise refusal(
            node,
            f"{describe(node, None)} meets the pixels of a flattened map, pooled as {source}",
            remedy="pool before flattening",
        )
    if isinstance(source, Concatenation):
        raise refusal(
            node,
            f"{describe(node, None)} runs over maps that lie one behind the other, {source}",
            remedy="call it on each map, then concatenate",
        )
