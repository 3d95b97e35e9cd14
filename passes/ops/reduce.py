"""Reductions over dimensions.

A mean or a maximum does not depend on how many pixels there are. A sum does, and a norm: in the
pre-train network they are multiplied by what the target has more of, so that their amplitude stays.
"""

from __future__ import annotations

from math import inf
from typing import Any

import torch

from fxscale.passes.annotations import fixed_shape
from fxscale.passes.axes import Annotation, Shape, is_spatial
from fxscale.passes.ops.registry import Call, handles


@handles(torch.mean, ".mean", torch.amax, ".amax", torch.amin, ".amin", params="input dim keepdim")
@handles(torch.any, ".any", torch.all, ".all", params="input dim keepdim")
def reduce_mean(call: Call) -> Annotation:
    return _reduce(call, keep=call.value("keepdim", False))


@handles(torch.prod, ".prod", torch.logsumexp, ".logsumexp", params="input dim keepdim")
def reduce_channels(call: Call) -> Annotation:
    dims = call.dims()
    if any(is_spatial(dims[index]) for index in reduced(call)):
        raise call.refuse(
            "grows with the pixels of a feature map as no factor does",
            "reduce over channels, or take the mean, the sum or the maximum of the pixels",
        )
    return _reduce(call, keep=call.value("keepdim", False))


@handles(torch.var, ".var", torch.std, ".std", params="input dim")
def reduce_spread(call: Call) -> Annotation:
    return _reduce(call, keep=_keepdim(call))


@handles(torch.var_mean, torch.std_mean, params="input dim")
def reduce_spread_and_mean(call: Call) -> Annotation:
    return (_reduce(call, keep=_keepdim(call)),) * 2


@handles(torch.sum, ".sum", params="input dim keepdim")
def reduce_sum(call: Call) -> Annotation:
    _grows(call, 1.0)
    return _reduce(call, keep=call.value("keepdim", False))


@handles(torch.norm, ".norm", params="input p dim keepdim dtype")
@handles(torch.linalg.vector_norm, params="input p dim keepdim")
def reduce_norm(call: Call) -> Annotation:
    _grows(call, norm_power(call))
    return _reduce(call, keep=call.value("keepdim", False))


@handles(torch.histc, ".histc")
def histogram(call: Call) -> Annotation:
    call.annotator.sums_over(call.node, tuple(axis for dim in call.dims() for axis in dim))
    return fixed_shape(call.result)


@handles(torch.cumsum, ".cumsum", torch.cumprod, ".cumprod", params="input dim")
def accumulate(call: Call) -> Annotation:
    dims = call.dims()
    if is_spatial(dims[call.value("dim")]):
        raise call.refuse(
            "accumulates over the pixels of a feature map, whose number changes",
            "accumulate over channels, or register a handler for the module",
        )
    return Shape(dims)


def norm_power(call: Call) -> float:
    """The power of the number of terms with which a norm grows: 1/2 for the Euclidean one."""
    name = "p" if "p" in call.node.kwargs else "ord"
    order: Any = call.value("p") if name == "p" or len(call.node.args) > 1 else None
    order = call.node.kwargs.get("ord", order)
    if order in (None, "fro"):
        order = 2
    if not isinstance(order, int | float) or order <= 0:
        raise call.refuse(f"a norm of order {order!r}", "use a positive order")
    return 0.0 if order == inf else 1 / order


def reduced(call: Call) -> set[int]:
    """The dimensions over which a reduction goes."""
    rank = len(call.dims())
    dim = call.value("dim")
    if dim is None or (isinstance(dim, tuple | list) and not dim):
        return set(range(rank))
    return {d % rank for d in (dim if isinstance(dim, tuple | list) else (dim,))}


def _keepdim(call: Call) -> bool:
    if call.node.kwargs.keys() - {"dim", "unbiased", "correction", "keepdim"}:
        raise call.refuse("unusual arguments", "give dim, unbiased or correction, and keepdim")
    if len(call.node.args) > 2:
        raise call.refuse("arguments without a name behind dim", "give them by name")
    return bool(call.node.kwargs.get("keepdim", False))


def _grows(call: Call, power: float) -> None:
    dims = call.dims()
    over = tuple(axis for index in sorted(reduced(call)) for axis in dims[index])
    call.annotator.sums_over(call.node, over, power=power)


def _reduce(call: Call, *, keep: bool) -> Annotation:
    over = reduced(call)
    dims = call.dims()
    return Shape(
        tuple(() if i in over else dim for i, dim in enumerate(dims) if keep or i not in over)
    )
