"""Taking parts: items of containers, slices of tensors, explicit padding."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import (
    Annotation,
    Axis,
    Dim,
    Dims,
    Extent,
    Lengths,
    Shape,
    fixed_dim,
    is_spatial,
    pretrain_length,
    target_length,
)
from fxscale.passes.concatenations import Concatenation
from fxscale.passes.halos import bordered, padded
from fxscale.passes.ops.registry import Call, any_node, handles


@handles(operator.getitem, params="input index")
def getitem(call: Call) -> Annotation:
    source, index = call.annotation("input"), call.value("index")
    if isinstance(source, tuple | list | dict):
        return source[index]
    if isinstance(source, Shape):
        return _index(call, source.dims, index if isinstance(index, tuple) else (index,))
    return None


@handles(torch.select, ".select", params="input dim index")
def select(call: Call) -> Annotation:
    dims = list(call.dims())
    place = call.value("dim") % len(dims)
    raw = call.raw("index")
    index = _pick(call, dims.pop(place), call.value("index"), raw)
    if index is not raw:
        call.annotator.substitute(call.node, index, argument=call.place("index"))
    return Shape(tuple(dims))


@handles(torch.narrow, ".narrow", params="input dim start length")
@handles(torch.index_select, ".index_select", params="input dim index")
def take(call: Call) -> Annotation:
    dims = list(call.dims())
    place = call.value("dim") % len(dims)
    if is_spatial(dims[place]):
        raise call.refuse("takes pixels by their numbers", "use slices")
    where = call.annotation("index") if "index" in call.params else None
    if isinstance(where, Shape):  # one entry of a table for every pixel
        dims[place : place + 1] = where.dims
    else:
        dims[place] = fixed_dim(call.result.shape[place])
    return Shape(tuple(dims))


@handles(operator.setitem, params="input index value")
def setitem(call: Call) -> Annotation:
    """Writes into a part of a tensor; the tensor itself keeps its axes."""
    index = call.value("index")
    region = _index(call, call.dims(), index if isinstance(index, tuple) else (index,))
    value = call.annotation("value")
    if isinstance(value, Shape):
        pairs = zip(reversed(region.dims), reversed(value.dims), strict=False)
        if any(is_spatial(into) and part not in (into, ()) for into, part in pairs):
            raise call.refuse(
                "writes one feature map into another of its own origin",
                "compute the parts and concatenate them, or add them",
            )
    return None


def _index(call: Call, dims: Dims, index: tuple[Any, ...]) -> Shape:
    used = sum(1 for item in index if item is not None and item is not Ellipsis)
    raw = call.raw("index")
    items = list(raw) if isinstance(raw, tuple) else [raw]
    out: list[Dim] = []
    remaining = list(dims)
    for place, item in enumerate(index):
        if item is None:
            out.append(())
        elif item is Ellipsis:
            skip = len(dims) - used
            out += remaining[:skip]
            remaining = remaining[skip:]
        elif isinstance(item, slice):
            dim, items[place] = _slice(call, remaining.pop(0), item, items[place], place)
            out.append(dim)
        elif isinstance(item, int):
            items[place] = _pick(call, remaining.pop(0), item, items[place])
        elif isinstance(item, list) and not is_spatial(remaining.pop(0)):
            out.append(fixed_dim(len(item)))
        elif isinstance(item, torch.Tensor) and _reads_a_table(item, index, remaining.pop(0)):
            places = call.annotator.annotation_of(items[place])
            assert isinstance(places, Shape)  # as every tensor has one
            out += places.dims
        else:
            raise call.refuse("indexes a tensor with a tensor", "use slices")
    if not isinstance(raw, fx.Node) and items != (list(raw) if isinstance(raw, tuple) else [raw]):
        call.annotator.substitute(call.node, tuple(items), argument=call.place("index"))
    return Shape((*out, *remaining))


def _reads_a_table(item: torch.Tensor, index: tuple[Any, ...], dim: Dim) -> bool:
    """Whether `index` takes whole entries of a dimension by their numbers: `codes[nearest]`."""
    others = sum(isinstance(other, int | list | torch.Tensor) for other in index)
    return others == 1 and item.dtype in (torch.int32, torch.int64) and not is_spatial(dim)


def _up_to(call: Call, dim: Dim, item: Any) -> Dim | None:
    """The dimension that `x[:, :H]` leaves, where `H` is the length of another tensor's axes."""
    if not isinstance(item, slice) or item.start not in (None, 0) or item.step not in (None, 1):
        return None
    extent = call.annotator.annotation_of(item.stop)
    if not isinstance(extent, Extent) or not is_spatial(extent.dim):
        return None
    return extent.dim


def _slice(call: Call, dim: Dim, item: slice, raw: Any, place: int) -> tuple[Dim, Any]:
    """What a slice leaves of a dimension, and the slice to take in the pre-train network.

    1. everything; 2. a part of a fixed dimension; 3. whole parts of a concatenation; 4. every
    second pixel; 5. a crop, whose margins the geometry pass solves for.
    """
    length = target_length(dim)
    start, stop, step = item.indices(length)
    if (start, stop, step) == (0, length, 1):
        return dim, slice(None)
    if not is_spatial(dim):
        return fixed_dim(len(range(start, stop, step))), raw
    axis = dim[0]
    if len(dim) > 1 or step < 1:
        known = _up_to(call, dim, raw)
        if known is not None:
            return known, raw
        raise call.refuse("slices a flattened feature map", "slice it before it is flattened")
    if isinstance(axis, Concatenation):
        if step > 1:
            raise call.refuse("takes every second token", "take the parts before concatenating")
        between = [position(call, axis, bound) for bound in (start, stop)]
        taken = slice(*map(_bound, (raw.start, raw.stop), between))
        return parts_between(call, axis, start, stop), taken
    if call.node.target is operator.setitem:
        raise call.refuse(
            "writes into a part of a feature map", "compute the parts and add them to the map"
        )
    fields: dict[str, Any] = {
        "node": call.node,
        "source": axis,
        "position": place,
        "kernel_size": 1,
    }
    margins = (-start, min(stop, length) - length)
    if step > 1:
        if stop < length:
            raise call.refuse("crops a feature map and skips pixels", "crop it first")
        return (call.annotator.window(**fields, stride=step, padding=(-start, 0)),), raw
    return (call.annotator.window(**fields, padding=margins, adjustable="pad"),), raw


def _bound(raw: Any, dim: Dim) -> Any:
    """A bound that was computed is computed anew, one that counts fixed tokens stays."""
    return dim if (isinstance(raw, int) and is_spatial(dim)) or _from_end(raw) else raw


def _from_end(raw: Any) -> bool:
    return isinstance(raw, int) and raw < 0


def _pick(call: Call, dim: Dim, item: int, raw: Any) -> Any:
    """The index of one entry, as it is in the pre-train network."""
    if not is_spatial(dim):
        return raw
    if item in (0, -1) and not any(isinstance(axis, Concatenation) for axis in dim):
        return item  # the first and the last pixel are so at every size
    if len(dim) > 1 or not isinstance(dim[0], Concatenation):
        call.annotator.parts.keep(dim)
        raise call.refuse(
            "picks one pixel of a feature map by its index",
            "pick the first or the last one, use a pool, or take the pick out of the network",
        )
    index = item % dim[0].target
    parts_between(call, dim[0], index, index + 1)
    return _bound(raw, position(call, dim[0], index))


def parts_between(call: Call, axis: Concatenation, start: int, stop: int) -> Dim:
    """The parts of a concatenation between two indices, which may divide fixed parts only."""
    taken: list[Dim] = []
    end = 0
    for part in axis.parts:
        begin, end = end, end + target_length(part)
        low, high = max(start, begin), min(stop, end)
        if low >= high:
            continue
        if is_spatial(part) and (low, high) != (begin, end):
            raise call.refuse(
                f"divides the feature map inside {axis} at {start}:{stop}",
                "take whole parts, as they were concatenated",
            )
        taken.append(part if is_spatial(part) else fixed_dim(high - low))
    return call.annotator.concatenation(taken)


def position(call: Call, axis: Concatenation, index: int) -> Dim:
    """An index into a concatenation as the length of all that lies before it."""
    return parts_between(call, axis, 0, index)


@handles(
    nn.CircularPad1d,
    nn.CircularPad2d,
    nn.CircularPad3d,
    nn.ConstantPad1d,
    nn.ConstantPad2d,
    nn.ConstantPad3d,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
)
def pad_module(call: Call) -> Annotation:
    module: Any = call.module
    return _pad(call, tuple(module.padding))


@handles(F.pad, torch._C._nn.pad, params="input pad mode value")
def pad(call: Call) -> Annotation:
    amounts = tuple(call.value("pad"))
    if not any(amounts) and any_node(call.raw("pad")):
        # Computed from sizes, such as `(7 - W % 7) % 7`; the map that comes in has the right one.
        call.annotator.substitute(call.node, amounts, argument=call.place("pad"))
    return _pad(call, amounts)


def _pad_kernel(call: Call, amounts: tuple[int, ...], dims: Dims) -> Annotation:
    """One tap among zeros becomes a kernel: it stays in the middle of a smaller one.

    Of two taps in the middle of an even kernel it is the second.
    """
    before = call.dims()
    if any(is_spatial(dim) for dim in before) or len(amounts) != 2 * (len(dims) - 2):
        raise call.refuse(
            "pads a kernel of several taps",
            "name the layer in keep, which leaves its kernel as it is",
        )
    for index, dim in enumerate(dims[2:]):
        first = amounts[len(amounts) - 2 * (index + 1)]
        if dim and first != dim[0].target // 2:
            raise call.refuse(
                "pads a kernel off its centre",
                "name the layer in keep, which leaves its kernel as it is",
            )

    def around(lengths: Lengths) -> tuple[int, ...]:
        sizes = [pretrain_length(dim, lengths) for dim in reversed(dims[2:])]
        return tuple(n for k in sizes for n in (k // 2, k - 1 - k // 2))

    call.annotator.substitute(call.node, around, argument=call.place("pad"))
    return Shape(dims)


def _pad(call: Call, amounts: tuple[int, ...]) -> Annotation:
    """`amounts` runs from the last dimension backwards, as in `F.pad`."""
    dims = list(call.dims())
    if call.node in call.annotator.layouts.pads:
        return _pad_kernel(call, amounts, call.annotator.layouts.pads[call.node])
    for offset in range(len(amounts) // 2):
        index = len(dims) - 1 - offset
        before, after = amounts[2 * offset], amounts[2 * offset + 1]
        dim = dims[index]
        if before == after == 0:
            continue
        if not is_spatial(dim):
            dims[index] = (Axis(call.result.shape[index], spatial=False),)
        elif len(dim) > 1 or isinstance(dim[0], Concatenation):
            if before < 0 or after < 0:
                raise call.refuse("crops a flattened feature map", "crop it before flattening")
            # Tokens in front and behind, as if they were concatenated.
            dims[index] = call.annotator.concatenation(
                [fixed_dim(n) if isinstance(n, int) else n for n in (before, dim, after) if n != 0]
            )
        else:
            axis: Axis | None = bordered(call, index, dim[0], (before, after))
            dims[index] = (axis or padded(call, index, dim[0], (before, after)),)
    return Shape(tuple(dims))
