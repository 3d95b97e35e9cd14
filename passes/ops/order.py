"""Operators that put the entries of a dimension in order, or find some of them by rank or index.

Along channels they are what they are; along pixels, whose number changes, ranks and indices are
other ones in the pre-train network.
"""

from __future__ import annotations

import torch

from fxscale.passes.axes import Annotation, Dim, Shape, fixed_dim, is_spatial
from fxscale.passes.ops.join import meet
from fxscale.passes.ops.reduce import reduce_mean, reduced
from fxscale.passes.ops.registry import Call, handles


@handles(torch.sort, ".sort", params="input dim")
@handles(torch.topk, ".topk", params="input k dim")
def several(call: Call) -> Annotation:
    dims, place = _one_dimension(call)
    dims[place] = fixed_dim(call.result[0].shape[place])
    return (Shape(tuple(dims)),) * 2


@handles(torch.argsort, ".argsort", params="input dim")
def order(call: Call) -> Annotation:
    dims, _ = _one_dimension(call)
    return Shape(tuple(dims))


@handles(torch.mode, ".mode", params="input dim keepdim")
@handles(torch.kthvalue, ".kthvalue", params="input k dim keepdim")
def one(call: Call) -> Annotation:
    dims, place = _one_dimension(call)
    dims[place : place + 1] = [()] if call.value("keepdim", False) else []
    return (Shape(tuple(dims)),) * 2


@handles(torch.median, ".median", params="input dim keepdim")
@handles(torch.argmax, ".argmax", torch.argmin, ".argmin", params="input dim keepdim")
def one_of_all(call: Call) -> Annotation:
    """Without a dimension, of all values."""
    _need_channels(call, reduced(call))
    found = reduce_mean(call)
    return found if isinstance(call.result, torch.Tensor) else (found, found)


@handles(torch.gather, ".gather", params="input dim index")
@handles(torch.take_along_dim, ".take_along_dim", params="input index dim")
def gather(call: Call) -> Annotation:
    dims, wanted, place = call.dims(), call.dims("index"), call.value("dim")
    if place is None or is_spatial(dims[place]) or _leaves_pixels_out(call, place):
        raise call.refuse(
            "picks pixels of a feature map by computed indices",
            "pick channels, with as many indices as pixels, or use F.grid_sample",
        )
    place %= len(dims)
    tensors = (call.raw("input"), dims), (call.raw("index"), wanted)
    out = [
        wanted[index]
        if index == place
        else meet(call, [(node, index, of[index]) for node, of in tensors])
        for index in range(len(dims))
    ]
    return Shape(tuple(out))


def _leaves_pixels_out(call: Call, place: int) -> bool:
    """Whether there are fewer indices than pixels, or other entries."""
    sizes = zip(call.result.shape, call.value("input").shape, strict=True)
    others = [pair for index, pair in enumerate(sizes) if index != place % call.result.ndim]
    return any(found != given for found, given in others)


def _one_dimension(call: Call) -> tuple[list[Dim], int]:
    """The input's dimensions and the place of the one that is meant, by default the last."""
    dims = list(call.dims())
    place = call.value("dim", -1) % len(dims)
    _need_channels(call, {place})
    return dims, place


def _need_channels(call: Call, over: set[int]) -> None:
    dims = call.dims()
    if any(is_spatial(dims[index]) for index in over):
        raise call.refuse(
            "puts the pixels of a feature map in order, whose number changes",
            "do so along channels, or use the mean or the maximum of the pixels",
        )
