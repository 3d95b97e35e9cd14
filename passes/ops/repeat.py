"""Operators that copy values: broadcasting by name, repeating."""

from __future__ import annotations

from typing import Any

import torch

from fxscale.passes.axes import Annotation, Axis, Dim, Extent, Shape, is_spatial
from fxscale.passes.ops.registry import Call, handles


@handles(".expand", ".broadcast_to", torch.broadcast_to, params="input *sizes")
def expand(call: Call) -> Annotation:
    return _copies(call, "sizes")


@handles(".repeat", params="input *sizes")
@handles(".tile", torch.tile, params="input *dims")
def repeat(call: Call) -> Annotation:
    return _copies(call, call.params[-1].lstrip("*"))


def _copies(call: Call, name: str) -> Annotation:
    """Every dimension of the result is the source's, or made of copies of a single value."""
    sizes: Any = call.annotation(name)
    lengths = call.result.shape
    dims = call.dims()
    padded = ((),) * (len(lengths) - len(dims)) + dims
    known = sizes if isinstance(sizes, tuple | list) else ()
    known = (None,) * (len(lengths) - len(known)) + tuple(known)
    out: list[Dim] = []
    for dim, length, size in zip(padded, lengths, known, strict=True):
        before = 1
        for axis in dim:
            before *= axis.target
        if before == length:
            out.append(dim)
        elif is_spatial(dim):
            raise call.refuse(
                "puts copies of a feature map side by side", "concatenate along channels"
            )
        elif before == 1 and isinstance(size, Extent):
            out.append(size.dim)
        else:  # copies of one value, as many as there are of what they meet
            out.append(call.annotator.constants.dim_at((call.node, len(out)), length))
            if is_spatial(out[-1]):
                _set_length(call, len(out) - 1 - len(lengths), out[-1])
    return Shape(tuple(out))


def _set_length(call: Call, place: int, dim: Dim) -> None:
    """Put a planned length in the place of a size, counted from the last."""
    sizes = call.node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        call.annotator.substitute(call.node, dim, argument=(1, len(sizes[0]) + place))
    elif len(sizes) >= -place:
        call.annotator.substitute(call.node, dim, argument=len(call.node.args) + place)
    else:
        raise call.refuse("its sizes are one computed value", "pass the sizes one by one")


@handles(torch.repeat_interleave, ".repeat_interleave", params="input repeats dim")
def repeat_interleave(call: Call) -> Annotation:
    """Each value several times in a row: over pixels, an enlargement of the map."""
    dims, repeats, dim = list(call.dims()), call.value("repeats"), call.value("dim")
    extent = call.annotation("repeats")
    if isinstance(extent, Extent) and dim is not None:  # once for every window, say
        dims[dim] = (*dims[dim], *extent.dim)
        return Shape(tuple(dims))
    if not isinstance(repeats, int) or dim is None:
        raise call.refuse("repeats values unevenly or without a dimension", "use F.interpolate")
    if len(dims[dim]) == 1 and dims[dim][0].spatial:
        axis = dims[dim][0]
        longer = call.annotator.refit(call.node, axis, axis.target * repeats, float(repeats))
        dims[dim] = (longer,)
    elif is_spatial(dims[dim]):
        raise call.refuse("repeats the pixels of a flattened map", "use F.interpolate")
    else:
        length = call.result.shape[dim]
        dims[dim] = () if length == 1 else (Axis(length, spatial=False),)
    return Shape(tuple(dims))
