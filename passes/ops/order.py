"""Operators that put the entries of a dimension in order, or find one of them by its rank.

Along channels they are what they are; along pixels, whose number changes, ranks and indices are
other ones in the pre-train network.
"""

from __future__ import annotations

import torch

from fxscale.passes.axes import Annotation, Dim, Shape, fixed_dim, is_spatial
from fxscale.passes.ops.registry import Call, handles

_OF_ALL = (torch.median, ".median", torch.argmax, ".argmax", torch.argmin, ".argmin")
"""Operators that take all values where no dimension is named."""


@handles(torch.sort, ".sort", params="input dim")
@handles(torch.topk, ".topk", params="input k dim")
def several(call: Call) -> Annotation:
    dims, place = _along_channels(call)
    dims[place] = fixed_dim(call.result[0].shape[place])
    return (Shape(tuple(dims)),) * 2


@handles(torch.median, ".median", torch.mode, ".mode", params="input dim keepdim")
@handles(torch.kthvalue, ".kthvalue", params="input k dim keepdim")
def one(call: Call) -> Annotation:
    found = _without_one(call)
    return found if isinstance(call.result, torch.Tensor) else (found, found)


@handles(torch.argsort, ".argsort", params="input dim")
def order(call: Call) -> Annotation:
    dims, _ = _along_channels(call)
    return Shape(tuple(dims))


@handles(torch.argmax, ".argmax", torch.argmin, ".argmin", params="input dim keepdim")
def place_of_an_extreme(call: Call) -> Annotation:
    return _without_one(call)


def _without_one(call: Call) -> Annotation:
    dims, place = _along_channels(call)
    if isinstance(call.result, torch.Tensor) and call.result.ndim == 0:  # of all values
        return Shape(())
    dims[place : place + 1] = [()] if call.value("keepdim", False) else []
    return Shape(tuple(dims))


def _along_channels(call: Call) -> tuple[list[Dim], int]:
    """The input's dimensions and which of them is meant; without a name, the last or all."""
    dims = list(call.dims())
    dim = call.value("dim")
    last = call.annotator.target_of(call.node) not in _OF_ALL
    over = [dims[dim]] if dim is not None else dims[-1:] if last else dims
    if any(map(is_spatial, over)):
        raise call.refuse(
            "puts the pixels of a feature map in order, whose number changes",
            "do so along channels, or use the mean or the maximum of the pixels",
        )
    return dims, (-1 if dim is None else dim) % len(dims)
