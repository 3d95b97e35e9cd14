"""Reductions over dimensions. A mean or a maximum does not depend on how many pixels there are; a
sum does, so a sum over a feature map is refused."""

from __future__ import annotations

import torch

from fxscale.passes.axes import Annotation, Shape, is_spatial
from fxscale.passes.ops.registry import Call, handles


@handles(torch.mean, ".mean", torch.amax, ".amax", torch.amin, ".amin", params="input dim keepdim")
def reduce_mean(call: Call) -> Annotation:
    return _reduce(call, keep=call.value("keepdim", False))


@handles(torch.var, ".var", torch.std, ".std", params="input dim")
def reduce_spread(call: Call) -> Annotation:
    if call.node.kwargs.keys() - {"dim", "unbiased", "correction", "keepdim"}:
        raise call.refuse("unusual arguments", "give dim, unbiased or correction, and keepdim")
    if len(call.node.args) > 2:
        raise call.refuse("arguments without a name behind dim", "give them by name")
    return _reduce(call, keep=bool(call.node.kwargs.get("keepdim", False)))


@handles(torch.sum, ".sum", params="input dim keepdim")
def reduce_sum(call: Call) -> Annotation:
    dims = call.dims()
    if any(is_spatial(dims[index]) for index in _reduced(call)):
        raise call.refuse(
            "a sum over a feature map grows with its size",
            "use a mean, which does not",
        )
    return _reduce(call, keep=call.value("keepdim", False))


def _reduced(call: Call) -> set[int]:
    rank = len(call.dims())
    dim = call.value("dim")
    if dim is None:
        return set(range(rank))
    return {d % rank for d in (dim if isinstance(dim, tuple | list) else (dim,))}


def _reduce(call: Call, *, keep: bool) -> Annotation:
    reduced = _reduced(call)
    dims = call.dims()
    return Shape(
        tuple(() if i in reduced else dim for i, dim in enumerate(dims) if keep or i not in reduced)
    )
