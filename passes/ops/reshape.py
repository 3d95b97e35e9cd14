"""Operators that regroup or reorder dimensions without touching a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from fxscale.passes.axes import Annotation, Axis, Dim, Dims, Shape, is_spatial
from fxscale.passes.ops.registry import Call, handles


@handles(nn.Flatten)
def flatten_module(call: Call) -> Annotation:
    assert isinstance(call.module, nn.Flatten)
    return _flatten(call, call.module.start_dim, call.module.end_dim)


@handles(torch.flatten, ".flatten", params="input start_dim end_dim")
def flatten(call: Call) -> Annotation:
    return _flatten(call, call.value("start_dim", 0), call.value("end_dim", -1))


def _flatten(call: Call, start: int, end: int) -> Annotation:
    dims = call.dims()
    start, end = start % len(dims), end % len(dims)
    merged = tuple(axis for dim in dims[start : end + 1] for axis in dim)
    return Shape((*dims[:start], merged, *dims[end + 1 :]))


@handles(".view", ".reshape", params="input *shape")
def view(call: Call) -> Annotation:
    return _reshape(call)


@handles(torch.reshape, params="input shape")
def reshape(call: Call) -> Annotation:
    return _reshape(call)


def _reshape(call: Call) -> Annotation:
    requested = call.raw("shape")
    if isinstance(requested, torch.dtype):
        return call.annotation("input")
    dims = regroup(call, call.dims(), call.result.shape)
    if isinstance(requested, fx.Node):  # a computed size, such as x.shape[:2]
        return Shape(dims)
    nested = len(call.node.args) > 1 and isinstance(call.node.args[1], tuple | list)
    for index, (size, dim) in enumerate(zip(requested, dims, strict=True)):
        if isinstance(size, int) and size != -1 and is_spatial(dim):
            argument = (1, index) if nested else index + 1
            call.annotator.substitute(call.node, dim, argument=argument)
    return Shape(dims)


@handles(".view_as", ".reshape_as", params="input other")
def view_as(call: Call) -> Annotation:
    return Shape(regroup(call, call.dims(), call.result.shape))


def regroup(call: Call, dims: Dims, lengths: Sequence[int]) -> Dims:
    """Distribute the axes, in order, over dimensions of the given lengths.

    A fixed axis may be split (channel shuffle); a spatial one may not.
    """
    axes = [axis for dim in dims for axis in dim if axis.spatial or axis.target > 1]
    out: list[Dim] = []
    for length in lengths:
        group: list[Axis] = []
        room = int(length)
        while room > 1:
            if not axes:
                raise call.refuse(f"cannot view {Shape(dims)} as {tuple(lengths)}", "use flatten")
            axis = axes.pop(0)
            if room % axis.target == 0:
                group.append(axis)
                room //= axis.target
            elif axis.spatial or axis.target % room:
                raise call.refuse(
                    f"viewing {Shape(dims)} as {tuple(lengths)} splits a spatial axis",
                    "regroup whole axes only, or register a handler for the module",
                )
            else:
                group.append(Axis(room, spatial=False))
                axes.insert(0, Axis(axis.target // room, spatial=False))
                room = 1
        out.append(tuple(group))
    leftover = tuple(axes)
    if leftover and out:  # spatial axes of length 1 at the end
        out[-1] = (*out[-1], *leftover)
    return tuple(out)


@handles(torch.permute, ".permute", params="input *dims")
def permute(call: Call) -> Annotation:
    dims = call.dims()
    order: Any = call.value("dims")
    return Shape(tuple(dims[index] for index in order))


@handles(torch.transpose, ".transpose", torch.swapaxes, ".swapaxes", params="input dim0 dim1")
def transpose(call: Call) -> Annotation:
    dims = list(call.dims())
    a, b = call.value("dim0"), call.value("dim1")
    dims[a], dims[b] = dims[b], dims[a]
    return Shape(tuple(dims))


@handles(torch.unsqueeze, ".unsqueeze", params="input dim")
def unsqueeze(call: Call) -> Annotation:
    dims = list(call.dims())
    dims.insert(call.value("dim") % (len(dims) + 1), ())
    return Shape(tuple(dims))


@handles(torch.squeeze, ".squeeze", params="input dim")
def squeeze(call: Call) -> Annotation:
    dims = call.dims()
    dim = call.value("dim")
    chosen = range(len(dims)) if dim is None else dim if isinstance(dim, tuple | list) else (dim,)
    dropped = {index % len(dims) for index in chosen}
    if any(is_spatial(dims[index]) and _is_one(dims[index]) for index in dropped):
        raise call.refuse(
            "drops a feature map's axis because it has one pixel in the target",
            "pool the map globally first",
        )
    return Shape(tuple(d for i, d in enumerate(dims) if i not in dropped or not _is_one(d)))


def _is_one(dim: Dim) -> bool:
    return all(axis.target == 1 for axis in dim)


@handles(".expand_as", params="input other")
def expand_as(call: Call) -> Annotation:
    from fxscale.passes.ops.join import broadcast

    return broadcast(call, ("input", "other"))
