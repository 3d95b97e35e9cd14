"""Operators that regroup or reorder dimensions without touching a value."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from fxscale.passes.axes import Annotation, Axis, Dim, Dims, Extent, Shape, is_spatial
from fxscale.passes.axis_checks import require_map
from fxscale.passes.distances import holds_distances
from fxscale.passes.ops.registry import Call, handles
from fxscale.passes.origins import Origin
from fxscale.passes.proxies import VALUE


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
    return Shape((*dims[:start], call.annotator.parts.merge(call.node, merged), *dims[end + 1 :]))


@handles(".view", ".reshape", params="input *shape")
def view(call: Call) -> Annotation:
    return _reshape(call)


@handles(torch.reshape, params="input shape")
def reshape(call: Call) -> Annotation:
    return _reshape(call)


@handles(torch.unflatten, ".unflatten", params="input dim sizes")
def unflatten(call: Call) -> Annotation:
    dims, position = call.dims(), call.value("dim")
    position %= len(dims)
    sizes = call.raw("sizes")
    if isinstance(sizes, fx.Node):
        raise call.refuse("its sizes are one computed value", "pass a tuple of sizes")
    lengths = call.result.shape[position : position + len(sizes)]
    parts = regroup(call, dims[position : position + 1], lengths, _given(sizes))
    for index, size in enumerate(sizes):
        _replace_size(call, size, parts[index], (call.node.args.index(sizes), index))
    return Shape((*dims[:position], *parts, *dims[position + 1 :]))


@handles(nn.Unflatten)
def unflatten_module(call: Call) -> Annotation:
    assert isinstance(call.module, nn.Unflatten)
    dims, position = call.dims(), int(call.module.dim)
    position %= len(dims)
    sizes = tuple(call.module.unflattened_size)
    lengths = call.result.shape[position : position + len(sizes)]
    parts = regroup(call, dims[position : position + 1], lengths, _given(sizes))
    if any(map(is_spatial, parts)):
        call.annotator.substitute(call.node, parts, attribute="unflattened_size")
    return Shape((*dims[:position], *parts, *dims[position + 1 :]))


def _reshape(call: Call) -> Annotation:
    requested = call.raw("shape")
    if isinstance(requested, torch.dtype):
        return call.annotation("input")
    lengths = call.result.shape
    if isinstance(requested, fx.Node):  # a computed size, such as x.shape[:2]
        return Shape(regroup(call, call.dims(), lengths))
    dims = regroup(call, call.dims(), lengths, _given(requested))
    nested = len(call.node.args) > 1 and isinstance(call.node.args[1], tuple | list)
    places = [(1, index) if nested else index + 1 for index in range(len(requested))]
    replaced = [
        _replace_size(call, size, dim, place)
        for size, dim, place in zip(requested, dims, places, strict=True)
    ]
    if -1 in replaced:  # a view has one open size: the others are named
        for size, dim, place in zip(requested, dims, places, strict=True):
            if type(size) is int and size == -1:
                call.annotator.substitute(call.node, dim, argument=place)
    return Shape(dims)


def _given(requested: Sequence[Any]) -> list[bool]:
    return [type(size) is int and size != -1 for size in requested]


def _replace_size(call: Call, size: Any, dim: Dim, place: Any) -> int | Dim | None:
    """Put the planned length in the place of a size that need not come out at it.

    1. A number, also a computed one that hangs on no map: where the dimension scales.
    2. Arithmetic on lengths, such as `H // 7`; a length as it stands (`H`, `H * W`) follows by
       itself. Only the batch is left open.
    """
    value: int | Dim
    if isinstance(size, fx.Node):
        constant = call.annotator.origins[size] is not Origin.SIZE
        if constant and not is_spatial(dim):
            return None
        if call.annotator.annotations[size] == Extent(dim):
            return None
        samples = any(axis.batch for axis in dim) or (not constant and _counts_samples(size))
        value = -1 if samples else dim
    elif type(size) is int and size != -1 and is_spatial(dim):
        value = dim
    else:
        return None
    call.annotator.substitute(call.node, value, argument=place)
    return value


def _counts_samples(size: fx.Node) -> bool:
    """Whether arithmetic on sizes reads the first length of a tensor, by custom the batch."""
    pending, seen = [size], set()
    while pending:
        node = pending.pop()
        if node in seen or isinstance(node.meta[VALUE], torch.Tensor):
            continue
        seen.add(node)
        whole = node.all_input_nodes[:1]
        if node.target is operator.getitem:  # of `x.shape` or `x.size()`, not of a part of them
            whole = whole[0].all_input_nodes
        reads = node.target in (operator.getitem, "size") and node.args[1:] == (0,)
        if reads and any(isinstance(source.meta[VALUE], torch.Tensor) for source in whole):
            return True
        pending += node.all_input_nodes
    return False


@handles(".view_as", ".reshape_as", params="input other")
def view_as(call: Call) -> Annotation:
    return Shape(regroup(call, call.dims(), call.result.shape))


def regroup(
    call: Call, dims: Dims, lengths: Sequence[int], given: Sequence[bool] | None = None
) -> Dims:
    """Distribute the axes, in order, over dimensions of the given lengths.

    An axis whose length is not taken at once is split: a fixed one into fixed axes (channel
    shuffle), a spatial one into parts (windows). `given` says which lengths the model names.
    """
    axes = [axis for dim in dims for axis in dim if axis.spatial or axis.target > 1]
    groups = _distribute([axis.target for axis in axes], lengths)
    if groups is None:
        raise call.refuse(
            f"cannot view {Shape(dims)} as {tuple(lengths)}",
            "split every axis by a factor of its length, or register a handler for the module",
        )
    named = given if given is not None else [False] * len(lengths)
    factors: dict[int, list[tuple[int, bool]]] = {}
    for group, name in zip(groups, named, strict=True):
        for index, length in group:
            factors.setdefault(index, []).append((length, name and len(group) == 1))
    parts = {index: iter(_take_apart(call, axes[index], f)) for index, f in factors.items()}
    out = [tuple(next(parts[index]) for index, _ in group) for group in groups]
    untouched = tuple(axis for index, axis in enumerate(axes) if index not in factors)
    if untouched and out:  # spatial axes of length 1 at the end
        out[-1] = (*out[-1], *untouched)
    return tuple(call.annotator.parts.merge(call.node, dim) for dim in out)


def _distribute(
    targets: Sequence[int], lengths: Sequence[int]
) -> list[list[tuple[int, int]]] | None:
    """For every dimension the axes in it, as (index, length), where an axis may be split."""
    rest = list(enumerate(targets))
    groups: list[list[tuple[int, int]]] = []
    for length in lengths:
        group: list[tuple[int, int]] = []
        room = int(length)
        while room > 1:
            if not rest:
                return None
            index, left = rest.pop(0)
            if room % left == 0:
                group.append((index, left))
                room //= left
            elif left % room == 0:
                group.append((index, room))
                rest.insert(0, (index, left // room))
                room = 1
            else:
                return None
        groups.append(group)
    return groups


def _take_apart(call: Call, axis: Axis, factors: Sequence[tuple[int, bool]]) -> Sequence[Axis]:
    if len(factors) == 1:
        return (axis,)
    lengths, given = zip(*factors, strict=True)
    if axis.spatial:
        require_map(call.node, axis)
        return call.annotator.parts.split(call.node, axis, lengths, given)
    parts = [Axis(length, spatial=False, batch=axis.batch) for length in lengths]
    call.annotator.unflattened.take_apart(axis, parts)
    return parts


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


@handles(torch.t, ".t")
def transpose_matrix(call: Call) -> Annotation:
    return Shape(call.dims()[::-1])


@handles(torch.movedim, ".movedim", params="input source destination")
def move(call: Call) -> Annotation:
    dims = call.dims()
    rank = len(dims)
    pairs = [call.value(name) for name in ("source", "destination")]
    sources, places = ([pair] if isinstance(pair, int) else list(pair) for pair in pairs)
    moved = {p % rank: dims[index % rank] for index, p in zip(sources, places, strict=True)}
    taken = {index % rank for index in sources}
    rest = iter([dim for index, dim in enumerate(dims) if index not in taken])
    return Shape(tuple(moved[p] if p in moved else next(rest) for p in range(rank)))


@handles(torch.flip, ".flip", params="input *dims")
@handles(torch.fliplr, ".fliplr", torch.flipud, ".flipud")
def flip(call: Call) -> Annotation:
    if holds_distances(call.dims()):
        raise call.refuse("turns distances round", "flip the table of positions itself")
    return call.annotation("input")


@handles(torch.rot90, ".rot90", params="input k dims")
def rotate(call: Call) -> Annotation:
    dims, (a, b) = list(call.dims()), call.value("dims", (0, 1))
    if call.value("k", 1) % 2:
        dims[a], dims[b] = dims[b], dims[a]
    return Shape(tuple(dims))


@handles(torch.roll, ".roll", params="input shifts dims")
def roll(call: Call) -> Annotation:
    """Cyclic shifts of channels; those of pixels go as far as belongs to one size of the map."""
    dims, over = call.dims(), call.value("dims")
    every = range(len(dims)) if over is None else (over,)
    chosen = over if isinstance(over, tuple | list) else every
    if any(is_spatial(dims[index]) for index in chosen):
        raise call.refuse(
            "shifts a feature map by pixels",
            "shift channels, or register a handler for the module",
        )
    return call.annotation("input")


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
