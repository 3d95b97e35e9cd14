"""Max unpooling: every value goes back to the pixel that it was the maximum of.

Indices count the pixels of the map that was pooled, so the unpooled map has its axes, whatever the
values went through in between. No operator pads a map in front of its pool, so that in the
pre-train network, too, they are the indices of its own pixels.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Annotation, Axis, Dim, Dims, Operand, Shape, target_length
from fxscale.passes.ops.registry import Call, handles

_LAYERS = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d)
_FUNCTIONS = (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)


@dataclass(frozen=True)
class Indices(Shape):
    """Annotation of the indices of a max pool into a map with the spatial dimensions `pooled`."""

    pooled: Dims


def with_indices(call: Call, values: Shape) -> Annotation:
    """What a max pool returns whose indices are asked for: `values`, and where they stood.

    Raises `UnsupportedModelError` where the indices go anywhere but into an unpooling.
    """
    pooled = call.dims()[2:]
    whole = any(dim and not small for dim, small in zip(pooled, values.dims[2:], strict=True))
    if whole or not _only_unpooled(call):
        raise call.refuse(
            "returns indices into the feature map",
            "use the values alone, or the indices for unpooling",
        )
    return values, Indices(values.dims, pooled)


def _only_unpooled(call: Call) -> bool:
    items = [user for user in call.node.users if user.target is operator.getitem]
    indices = [item for item in items if item.args[1] != 0]
    read = [user for item in indices for user in item.users]
    return (
        len(items) == len(call.node.users)
        and all(call.annotator.target_of(user) in (*_LAYERS, *_FUNCTIONS) for user in read)
        and call.annotator.network.returned.isdisjoint((call.node, *indices))
    )


@handles(*_LAYERS, params="input indices output_size")
@handles(*_FUNCTIONS, params="input indices kernel_size stride padding output_size")
def unpool(call: Call) -> Annotation:
    dims, indices = call.dims(), call.annotation("indices")
    if not isinstance(indices, Indices):
        raise call.refuse(
            "its indices are those of no max pool", "pass those that the pool returned"
        )
    if call.result.shape[2:] != tuple(map(target_length, indices.pooled)):
        raise call.refuse(
            "makes a map of another size than the one that was pooled",
            "pass the size of that map as output_size",
        )
    for index in range(2, len(dims)):
        _meet(call, index, dims[index], indices.dims[index])
    call.annotator.substitute(call.node, indices.pooled, argument=call.place("output_size"))
    return Shape((*dims[:2], *indices.pooled))


def _meet(call: Call, index: int, values: Dim, places: Dim) -> None:
    """The values are padded or cropped to the indices where need be, not the other way round."""
    operands = [
        Operand(node, dim, _single(call, axes))
        for node, dim, axes in (
            (call.raw("input"), index, values),
            (call.raw("indices"), None, places),
        )
        if isinstance(node, fx.Node)
    ]
    call.annotator.join(call.node, operands)


def _single(call: Call, dim: Dim) -> Axis:
    if len(dim) != 1 or not dim[0].spatial:
        raise call.refuse("unpools a dimension that is not one spatial axis", "unpool maps")
    return dim[0]
