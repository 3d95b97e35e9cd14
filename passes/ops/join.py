"""Operators in which several tensors meet: arithmetic with broadcasting, concatenation, stacking.

A spatial axis that meets another one must have its length in the pre-train network too. Where it
meets a parameter of the same length, the parameter is laid out over the feature map.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxscale.passes.annotations import measures_a_map, measures_the_batch
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
from fxscale.passes.concatenations import Concatenation
from fxscale.passes.ops.constant import follows, lay_over
from fxscale.passes.ops.registry import Call, handles
from fxscale.passes.origins import Origin
from fxscale.passes.proxies import VALUE

_ARITHMETIC = (
    "add",
    "atan2",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "copysign",
    "div",
    "float_power",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "heaviside",
    "hypot",
    "ldexp",
    "logaddexp",
    "logical_and",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "mul",
    "nextafter",
    "pow",
    "remainder",
    "sub",
    "xlogy",
)
_COMBINED = ("addcmul", "addcdiv", "lerp")
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
    operator.and_,
    operator.or_,
    operator.xor,
    operator.mod,
    *(getattr(operator, name) for name in ("iand", "ior", "ixor", "ifloordiv", "imod", "ipow")),
)


@handles(
    *_OPERATORS,
    *(getattr(torch, name) for name in _ARITHMETIC),
    *(f".{name}" for name in _ARITHMETIC),
    *(f".{name}_" for name in ("add", "sub", "mul", "div", "pow")),
    params="a b",
)
def arithmetic(call: Call) -> Annotation:
    if not isinstance(call.result, torch.Tensor):
        a, b = call.annotation("a"), call.annotation("b")
        if call.node.target is operator.mul and isinstance(a, Extent) and isinstance(b, Extent):
            return Extent((*a.dim, *b.dim))
        return None  # arithmetic on sizes runs again at the pre-train size
    _keep_amplitudes(call)
    return broadcast(call, ("a", "b"))


def _keep_amplitudes(call: Call) -> None:
    """A size by which activations are multiplied or divided is a factor, and stays the target's.

    Sums over pixels keep their amplitude already, so that `x.sum((2, 3)) / (h * w)` stays a mean.
    """
    for name, other in (("a", "b"), ("b", "a")):
        number, tensor = call.raw(name), call.raw(other)
        if not isinstance(number, fx.Node) or not isinstance(tensor, fx.Node):
            continue
        value, annotations = number.meta[VALUE], call.annotator.annotations
        factor = isinstance(value, int | float) and measures_a_map(number, annotations)
        if factor and call.annotator.origins[tensor] is Origin.IMAGE:
            if measures_the_batch(number, annotations):
                raise call.refuse(
                    "a factor counts samples and pixels in one number",
                    "divide by the number of pixels and by that of samples one after the other",
                )
            call.annotator.substitute(call.node, value, argument=call.place(name))


@handles(operator.neg, operator.invert)
def negate(call: Call) -> Annotation:
    return call.annotation("input") if isinstance(call.result, torch.Tensor) else None


@handles(torch.masked_fill, ".masked_fill", ".masked_fill_", params="a b value")
def masked_fill(call: Call) -> Annotation:
    return broadcast(call, ("a", "b"))


@handles(
    *(getattr(torch, name) for name in _COMBINED),
    *(f".{name}" for name in _COMBINED),
    *(f".{name}_" for name in _COMBINED),
    params="a b c",
)
def combine(call: Call) -> Annotation:
    return broadcast(call, ("a", "b", "c"))


@handles(torch.where, params="condition a b")
@handles(".where", params="a condition b")
def where(call: Call) -> Annotation:
    return broadcast(call, ("condition", "a", "b"))


def broadcast(call: Call, names: Sequence[str]) -> Shape:
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


def meet(call: Call, present: Sequence[tuple[fx.Node, int, Dim]], *, adaptable: bool = True) -> Dim:
    """One dimension of the result from the operands' dimensions (lengths are equal or 1).

    Unless `adaptable`, no operator may pad or crop one of them.
    """
    long = [entry for entry in present if target_length(entry[2]) > 1] or list(present)
    spatial = [entry for entry in long if is_spatial(entry[2])]
    if not spatial:
        return long[0][2]
    if len({_layout(dim) for _, _, dim in spatial}) > 1:
        raise call.refuse(
            "tensors meet whose dimensions are made of different axes",
            "flatten both in the same order, or add them before flattening",
        )
    fixed = [entry for entry in long if entry not in spatial and target_length(entry[2]) > 1]
    laid = call.annotator.constants.lay
    unmet = [e for e in fixed if not (follows(call, e[0]) or laid(e[2], spatial[0][2]))]
    if unmet:
        for node, _, _ in unmet:
            if isinstance(shape := call.annotator.annotations[node], Shape):
                call.annotator.unflattened.meets_map(shape.dims)
        raise call.refuse(
            "a spatial axis meets one that does not scale",
            "compute both operands from feature maps of the same size",
        )
    first = spatial[0][2]
    if len(first) == 1 and not isinstance(first[0], Concatenation):
        operands = [
            Operand(node, index if adaptable else None, dim[0]) for node, index, dim in spatial
        ]
        return (call.annotator.join(call.node, operands),)
    return _meet_inside(call, [(node, dim) for node, _, dim in spatial])


def _layout(dim: Dim) -> tuple[Any, ...]:
    return tuple(
        (type(axis), axis.target, axis.spatial, *map(_layout, getattr(axis, "parts", ())))
        for axis in dim
    )


def _meet_inside(call: Call, dims: Sequence[tuple[fx.Node, Dim]]) -> Dim:
    """Flattened or concatenated maps meet, axis by axis; none of them can be padded any more."""
    out: list[Axis] = []
    for index, axis in enumerate(dims[0][1]):
        column = [(node, dim[index]) for node, dim in dims]
        if isinstance(axis, Concatenation):
            rows = [[(node, part) for part in other.parts] for node, other in column]  # type: ignore[attr-defined]  # the layouts agree
            parts = [_meet_inside(call, entries) for entries in zip(*rows, strict=True)]
            out += call.annotator.concatenation(parts)
        elif axis.spatial:
            operands = [Operand(node, None, other) for node, other in column]
            out.append(call.annotator.join(call.node, operands))
        else:
            out.append(axis)
    return tuple(out)


@handles(torch.cat, torch.concat, torch.concatenate, params="tensors dim")
def concatenate(call: Call) -> Annotation:
    return _concatenate(call, call.value("dim", 0) % call.result.ndim)


@handles(torch.hstack, params="tensors")
def stack_channels(call: Call) -> Annotation:
    return _concatenate(call, min(1, call.result.ndim - 1))


def _concatenate(call: Call, dim: int) -> Annotation:
    shapes, nodes = _sequence(call)
    result: list[Dim] = []
    for index in range(call.result.ndim):
        present = [
            (node, index, shape.dims[index]) for node, shape in zip(nodes, shapes, strict=True)
        ]
        if index != dim:
            result.append(meet(call, present))
        else:
            for entry in present:
                if not all(axis.spatial for axis in entry[2]):
                    call.annotator.parts.keep(entry[2])
            result.append(call.annotator.concatenation([entry[2] for entry in present]))
    for node, shape in zip(nodes, shapes, strict=True):
        lay_over(call, node, shape.dims, [*result[:dim], shape.dims[dim], *result[dim + 1 :]])
    return Shape(tuple(result))


@handles(torch.stack, params="tensors dim")
def stack(call: Call) -> Annotation:
    shapes, nodes = _sequence(call)
    dim = call.value("dim", 0) % call.result.ndim
    result = [
        meet(call, [(n, index, s.dims[index]) for n, s in zip(nodes, shapes, strict=True)])
        for index in range(call.result.ndim - 1)
    ]
    for node, shape in zip(nodes, shapes, strict=True):
        lay_over(call, node, shape.dims, result)
    result.insert(dim, (Axis(len(shapes), spatial=False),))
    return Shape(tuple(result))


def _sequence(call: Call) -> tuple[Sequence[Shape], Sequence[fx.Node]]:
    """The tensors of a list argument and the nodes that hold them (one node for a whole tuple)."""
    shapes, nodes = call.annotation("tensors"), call.raw("tensors")
    if not isinstance(shapes, tuple | list) or not all(isinstance(s, Shape) for s in shapes):
        raise call.refuse("gathers something else than tensors", "pass a list of tensors")
    return shapes, [nodes] * len(shapes) if isinstance(nodes, fx.Node) else nodes
