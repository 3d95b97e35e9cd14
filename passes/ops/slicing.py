"""Taking parts: items of containers, slices of tensors, chunks, explicit padding."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import (
    Annotation,
    Axis,
    Dim,
    Dims,
    Extent,
    Lengths,
    Shape,
    is_spatial,
    pretrain_length,
    target_length,
)
from fxscale.passes.ops.registry import Call, any_node, handles


@handles(operator.getitem, params="input index")
def getitem(call: Call) -> Annotation:
    source, index = call.annotation("input"), call.value("index")
    if isinstance(source, tuple | list | dict):
        return source[index]
    if isinstance(source, Shape):
        raw = call.raw("index")
        index = index if isinstance(index, tuple) else (index,)
        return _index(call, source.dims, index, raw if isinstance(raw, tuple) else (raw,))
    return None


def _index(call: Call, dims: Dims, index: tuple[Any, ...], raw: tuple[Any, ...]) -> Annotation:
    used = sum(1 for item in index if item is not None and item is not Ellipsis)
    out: list[Dim] = []
    remaining = list(dims)
    position = 0
    for item, computed in zip(index, raw, strict=True):
        if item is None:
            out.append(())
        elif item is Ellipsis:
            skip = len(dims) - used
            out += remaining[:skip]
            remaining, position = remaining[skip:], position + skip
        else:
            dim = remaining.pop(0)
            if isinstance(item, slice):
                known = _up_to(call, dim, computed)
                out.append(_slice(call, dim, item, position) if known is None else known)
            elif not isinstance(item, int):
                raise call.refuse("indexes a tensor with a tensor", "use slices")
            elif is_spatial(dim):
                call.annotator.parts.keep(dim)
                raise call.refuse(
                    "picks one pixel of a feature map by its index",
                    "use a pool, or take the pick out of the network",
                )
            position += 1
    return Shape((*out, *remaining))


def _up_to(call: Call, dim: Dim, item: Any) -> Dim | None:
    """The dimension that `x[:, :H]` leaves, where `H` is the length of another tensor's axes."""
    if not isinstance(item, slice) or item.start not in (None, 0) or item.step not in (None, 1):
        return None
    extent = call.annotator.annotation_of(item.stop)
    if not isinstance(extent, Extent) or not is_spatial(extent.dim) or not is_spatial(dim):
        return None
    return extent.dim if target_length(extent.dim) < target_length(dim) else dim


def _slice(call: Call, dim: Dim, item: slice, position: int) -> Dim:
    if item == slice(None) or item == slice(None, None, 1):
        return dim
    if not is_spatial(dim):
        full = dim[0].target if len(dim) == 1 else 1
        for axis in dim[1:]:
            full *= axis.target
        length = len(range(*item.indices(full)))
        return () if length == 1 else (Axis(length, spatial=False),)
    if len(dim) == 1 and item.start in (None, 0) and item.stop is None and item.step:
        return (
            call.annotator.window(
                node=call.node,
                source=dim[0],
                position=position,
                kernel_size=1,
                stride=item.step,
            ),
        )
    raise call.refuse(
        "crops a feature map at indices that belong to the target's size",
        "crop by F.pad with negative padding, or register a handler for the module",
    )


@handles(torch.chunk, ".chunk", params="input chunks dim")
def chunk(call: Call) -> Annotation:
    return _parts(call)


@handles(torch.split, ".split", params="input size dim")
def split(call: Call) -> Annotation:
    return _parts(call)


@handles(".unbind", torch.unbind, params="input dim")
def unbind(call: Call) -> Annotation:
    dims = call.dims()
    dim = call.value("dim", 0) % len(dims)
    if is_spatial(dims[dim]):
        call.annotator.parts.keep(dims[dim])
        raise call.refuse("splits a feature map along a spatial axis", "split channels")
    return tuple(Shape((*dims[:dim], *dims[dim + 1 :])) for _ in call.result)


def _parts(call: Call) -> Annotation:
    dims = call.dims()
    dim = call.value("dim", 0) % len(dims)
    if is_spatial(dims[dim]):
        call.annotator.parts.keep(dims[dim])
        raise call.refuse("splits a feature map along a spatial axis", "split channels")
    parts = []
    for tensor in call.result:
        length = tensor.shape[dim]
        part = () if length == 1 else (Axis(length, spatial=False),)
        parts.append(Shape((*dims[:dim], part, *dims[dim + 1 :])))
    return tuple(parts)


@handles(
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
        elif len(dim) > 1:
            raise call.refuse("pads a flattened feature map", "pad before flattening")
        else:
            axis = call.annotator.window(
                node=call.node,
                source=dim[0],
                position=index - 2,
                kernel_size=1,
                padding=(before, after),
                adjustable="pad",
            )
            dims[index] = (axis,)
    return Shape(tuple(dims))
