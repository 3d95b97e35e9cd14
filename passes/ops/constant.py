"""Tensors without a size of their own in the pre-train network, where they meet a feature map.

1. A parameter or buffer that meets the map itself is laid out over it, and is resized in the state.
2. A constant that is computed (`table[index]`, `pos.permute(0, 3, 1, 2)`), a mask and an index keep
   the target's size up to here; the pre-train network resizes the result.
3. What is computed from sizes has the right size already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import fx

from fxscale.passes.axes import Dim, Dims, is_spatial, target_length
from fxscale.passes.distances import holds_distances
from fxscale.passes.ops.registry import Call
from fxscale.passes.origins import Origin, has_no_order

if TYPE_CHECKING:
    from fxscale.passes.annotate import Annotator


def follows(call: Call, node: fx.Node) -> bool:
    """Whether `node` can be laid over any feature map of its length in the target."""
    return call.annotator.origins[node] is not Origin.IMAGE


def lay_over(call: Call, node: fx.Node, dims: Dims, result: Sequence[Dim]) -> None:
    """Lay `node` over the trailing dimensions of `result`, if they are spatial and it is not."""
    annotator = call.annotator
    if any(map(is_spatial, dims)):
        return  # laid out already: a parameter that holds a kernel
    aligned = result[len(result) - len(dims) :]
    taken = tuple(
        out if is_spatial(out) and target_length(dim) > 1 else dim
        for dim, out in zip(dims, aligned, strict=True)
    )
    if annotator.origins[node] is not Origin.CONSTANT or not any(map(is_spatial, taken)):
        return
    lay_out(annotator, call.node, node, taken)


def lay_out(annotator: Annotator, user: fx.Node, node: fx.Node, dims: Dims) -> None:
    """Record that `user` reads the constant `node` laid out over these dimensions."""
    resized = annotator.is_state(node) and not holds_distances(dims)
    if resized and not has_no_order(node, annotator.network.model, annotator.origins):
        annotator.feature(str(node.target), dims)
    else:
        annotator.resample(user, node, dims)
