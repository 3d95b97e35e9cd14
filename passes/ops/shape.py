"""Operators that read shapes: they yield plain numbers, each knowing the axes that it measures."""

from __future__ import annotations

import operator

import torch
from torch import fx

from fxscale.passes.annotations import fixed_shape, measures_a_map
from fxscale.passes.axes import Annotation, Dim, Extent, SelfSized, Shape, fixed_dim, is_spatial
from fxscale.passes.ops.registry import Call, handles
from fxscale.passes.proxies import VALUE


@handles(getattr, params="input name")
def read_attribute(call: Call) -> Annotation:
    source, name = call.annotation("input"), call.raw("name")
    if name == "shape" and isinstance(source, SelfSized):
        return None  # numbers that are computed from sizes
    if name == "shape" and isinstance(source, Shape):
        return tuple(Extent(dim) for dim in source.dims)
    if name in ("T", "mT", "H", "mH") and isinstance(source, Shape):
        if len(source.dims) < 2:
            return source
        return Shape((*source.dims[:-2], source.dims[-1], source.dims[-2]))
    if isinstance(source, tuple) and isinstance(call.raw("input"), fx.Node):
        items = zip(call.raw("input").meta[VALUE], source, strict=True)
        return next(annotation for value, annotation in items if value is call.result)
    if not isinstance(call.result, torch.Tensor):
        return None  # dtype, device, ndim: equal in both networks
    raise call.refuse(f"the attribute {name!r} of a tensor", "use the tensor itself")


@handles(".size", params="input dim")
def size(call: Call) -> Annotation:
    if isinstance(call.annotation("input"), SelfSized):
        return None  # see above
    extents = tuple(Extent(dim) for dim in call.dims())
    dim = call.value("dim")
    return extents if dim is None else extents[dim]


@handles(".dim", ".ndimension", ".is_floating_point", ".get_device", ".is_contiguous")
def plain_number(call: Call) -> Annotation:
    return None


@handles(".numel", torch.numel)
def count(call: Call) -> Annotation:
    return Extent(tuple(axis for dim in call.dims() for axis in dim))


@handles(".new_zeros", ".new_ones", ".new_empty", params="input *size")
@handles(".new_full", params="input size value")
def new_tensor(call: Call) -> Annotation:
    """A constant tensor of a given shape, such as the first state of a recurrent convolution.

    It gets the axes whose lengths it is made with, and so its size by itself.
    """
    sizes, given = call.annotation("size"), call.raw("size")
    lengths = call.result.shape
    known = sizes if isinstance(sizes, tuple | list) else (sizes,) * len(lengths)
    items = given if isinstance(given, tuple | list) else (given,) * len(lengths)
    dims: list[Dim] = []
    for length, size, item in zip(lengths, known, items, strict=True):
        if isinstance(size, Extent):
            dims.append(size.dim)
            continue
        if isinstance(item, fx.Node) and measures_a_map(item, call.annotator.annotations):
            raise call.refuse(
                "a tensor is created with a size that is computed from a map's",
                "create it with the map's own lengths, as torch.zeros_like(x) does",
            )
        dims.append(fixed_dim(length))
    return Shape(tuple(dims))


@handles(".new_tensor", params="input data")
def new_constant(call: Call) -> Annotation:
    return fixed_shape(call.result)


@handles(".bernoulli_", ".fill_", ".normal_", ".uniform_", ".zero_")
def fill(call: Call) -> Annotation:
    return call.annotation("input")


@handles(operator.floordiv, params="a b")
def quotient(call: Call) -> Annotation:
    """The number of windows is a length, too: `(N H W) // (N)` is `(H W)`."""
    from fxscale.passes.ops.join import broadcast

    if isinstance(call.result, torch.Tensor):
        return broadcast(call, ("a", "b"))
    whole, part = call.annotation("a"), call.annotation("b")
    if not isinstance(whole, Extent) or not isinstance(part, Extent):
        return None  # arithmetic on sizes runs again at the pre-train size
    if any(axis not in whole.dim for axis in part.dim):
        return None
    return Extent(tuple(axis for axis in whole.dim if axis not in part.dim))


@handles(torch._assert, params="condition message")
def assertion(call: Call) -> Annotation:
    """An assertion over sizes holds by construction: the verify pass has checked every size.

    It stays where it compares a length, which scales on both sides (`h == 224`), and where it
    compares sizes with each other; any other, such as `h % 32 == 0`, is about the target alone.
    """
    condition = call.raw("condition")
    if isinstance(condition, fx.Node) and not isinstance(condition.meta[VALUE], torch.Tensor):
        resized = any(s.node is condition for s in call.annotator.substitutions)
        constant = any(not isinstance(argument, fx.Node) for argument in condition.args)
        if constant and not resized and measures_a_map(condition, call.annotator.annotations):
            call.annotator.substitute(call.node, True, argument=call.place("condition"))
    return None


_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


@handles(
    *(getattr(operator, name) for name in _COMPARISONS),
    *(getattr(torch, name) for name in _COMPARISONS),
    *(f".{name}" for name in _COMPARISONS),
    params="a b",
)
def comparison(call: Call) -> Annotation:
    if isinstance(call.result, torch.Tensor):
        from fxscale.passes.ops.join import broadcast

        return broadcast(call, ("a", "b"))
    if call.node.target is operator.eq and call.result:
        _scale_constant(call)
    return None


def _scale_constant(call: Call) -> None:
    """`h == 224`: the constant is the length of the same axis, in either network."""
    for extent, constant in (("a", "b"), ("b", "a")):
        found = call.annotation(extent)
        if isinstance(found, Extent) and is_spatial(found.dim) and type(call.raw(constant)) is int:
            call.annotator.substitute(call.node, found.dim, argument=call.place(constant))
