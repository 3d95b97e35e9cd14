"""Operators in which several tensors meet: arithmetic with broadcasting, concatenation, stacking.

A spatial axis that meets another one must have its length in the pre-train network too. Where it
meets a parameter of the same length, the parameter is laid out over the feature map.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx

from fxscale.passes.axes import (
    Annotation,
    Axis,
    Dim,
    Extent,
    Operand,
    Shape,
    is_spatial,
    target_length,
)
from fxscale.passes.ops.constant import follows, lay_over
from fxscale.passes.ops.registry import Call, handles

_ARITHMETIC = ("add", "sub", "mul", "div", "maximum", "minimum", "pow", "true_divide")
_OPERATORS = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
)


@handles(
    *_OPERATORS,
    *(getattr(torch, name) for name in _ARITHMETIC),
    *(f".{name}" for name in _ARITHMETIC),
    *(f".{name}_" for name in ("add", "sub", "mul", "div")),
    params="a b",
)
def arithmetic(call: Call) -> Annotation:
    if not isinstance(call.result, torch.Tensor):
        a, b = call.annotation("a"), call.annotation("b")
        if call.node.target is operator.mul and isinstance(a, Extent) and isinstance(b, Extent):
            return Extent((*a.dim, *b.dim))
        return None  # arithmetic on sizes runs again at the pre-train size
    return broadcast(call, ("a", "b"))


@handles(operator.neg)
def negate(call: Call) -> Annotation:
    return call.annotation("input") if isinstance(call.result, torch.Tensor) else None


@handles(torch.masked_fill, ".masked_fill", ".masked_fill_", params="a b value")
def masked_fill(call: Call) -> Annotation:
    return broadcast(call, ("a", "b"))


@handles(torch.where, params="condition a b")
def where(call: Call) -> Annotation:
    return broadcast(call, ("condition", "a", "b"))


def broadcast(call: Call, names: Sequence[str]) -> Annotation:
    """The axes of an elementwise operator's result, joining those that must agree."""
    tensors = [
        (node, annotation.dims)
        for node, annotation in ((call.raw(n), call.annotation(n)) for n in names)
        if isinstance(annotation, Shape) and isinstance(node, fx.Node)
    ]
    rank = max(len(dims) for _, dims in tensors)
    result: list[Dim] = []
    for index in range(-rank, 0):
        present = [
            (node, len(dims) + index, dims[index]) for node, dims in tensors if len(dims) >= -index
        ]
        result.append(meet(call, present))
    for node, dims in tensors:
        lay_over(call, node, dims, result)
    return Shape(tuple(result))


def meet(
    call: Call, present: Sequence[tuple[fx.Node, int, Dim]], *, adaptable: bool = True
) -> Dim:
    """One dimension of the result from the operands' dimensions (lengths are equal or 1).

    No pad operator can make flattened maps equal, nor, unless `adaptable`, others.
    """
    long = [entry for entry in present if target_length(entry[2]) > 1] or list(present)
    spatial = [entry for entry in long if is_spatial(entry[2])]
    if not spatial:
        return long[0][2]
    layout = [[axis.spatial for axis in dim] for _, _, dim in spatial]
    lengths = [[axis.target for axis in dim] for _, _, dim in spatial]
    if any(row != layout[0] for row in layout) or any(row != lengths[0] for row in lengths):
        raise call.refuse(
            "tensors meet whose dimensions are made of different axes",
            "flatten both in the same order, or add them before flattening",
        )
    if any(entry not in spatial and not follows(call, entry[0]) for entry in long):
        raise call.refuse(
            "a spatial axis meets one that does not scale",
            "compute both operands from feature maps of the same size",
        )
    if len(layout[0]) == 1:
        operands = [Operand(node, index, dim[0]) for node, index, dim in spatial]
        return (call.annotator.join(call.node, operands),)
    # Flattened maps: their axes meet one by one, where no operator could pad them.
    columns = zip(*(dim for _, _, dim in spatial), strict=True)
    nodes = [node for node, _, _ in spatial]
    return tuple(
        call.annotator.join(
            call.node, [Operand(n, None, axis) for n, axis in zip(nodes, column, strict=True)]
        )
        if column[0].spatial
        else column[0]
        for column in columns
    )


@handles(torch.cat, torch.concat, torch.concatenate, params="tensors dim")
def concatenate(call: Call) -> Annotation:
    shapes, nodes = _sequence(call)
    dim = call.value("dim", 0) % call.result.ndim
    result: list[Dim] = []
    for index in range(call.result.ndim):
        present = [
            (node, index, shape.dims[index]) for node, shape in zip(nodes, shapes, strict=True)
        ]
        if index != dim:
            result.append(meet(call, present))
        elif any(is_spatial(entry[2]) for entry in present):
            raise call.refuse(
                "concatenation along a spatial dimension", "concatenate along channels"
            )
        else:
            result.append((Axis(call.result.shape[dim], spatial=False),))
    return Shape(tuple(result))


@handles(torch.stack, params="tensors dim")
def stack(call: Call) -> Annotation:
    shapes, nodes = _sequence(call)
    dim = call.value("dim", 0) % call.result.ndim
    result = [
        meet(call, [(n, index, s.dims[index]) for n, s in zip(nodes, shapes, strict=True)])
        for index in range(call.result.ndim - 1)
    ]
    result.insert(dim, (Axis(len(shapes), spatial=False),))
    return Shape(tuple(result))


def _sequence(call: Call) -> tuple[Sequence[Shape], Sequence[fx.Node]]:
    """The tensors of a list argument and the nodes that hold them (one node for a whole tuple)."""
    shapes, nodes = call.annotation("tensors"), call.raw("tensors")
    if not isinstance(shapes, tuple | list) or not all(isinstance(s, Shape) for s in shapes):
        raise call.refuse("gathers something else than tensors", "pass a list of tensors")
    return shapes, [nodes] * len(shapes) if isinstance(nodes, fx.Node) else nodes
