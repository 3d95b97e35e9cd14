"""Dividing a tensor along a dimension: chunks, splits, halves.

A map that is divided into equal stripes is a view with one more dimension: as many stripes, each of
them smaller in the pre-train network (`passes/parts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import Annotation, Axis, Dim, Shape, fixed_dim, is_spatial, target_length
from fxscale.passes.concatenations import Concatenation
from fxscale.passes.ops.registry import Call, handles
from fxscale.passes.ops.slicing import parts_between, position


@handles(torch.chunk, ".chunk", params="input chunks dim")
def chunk(call: Call) -> Annotation:
    return _parts(call)


@handles(nn.GLU)
def gated_module(call: Call) -> Annotation:
    assert isinstance(call.module, nn.GLU)
    return _halved(call, call.module.dim)


@handles(F.glu, params="input dim")
def gated(call: Call) -> Annotation:
    return _halved(call, call.value("dim", -1))


def _halved(call: Call, dim: int) -> Annotation:
    """One half of the channels is the gate of the other."""
    dims = list(call.dims())
    if is_spatial(dims[dim]):
        raise call.refuse("halves a feature map along a spatial axis", "use channels as gates")
    dims[dim] = fixed_dim(target_length(dims[dim]) // 2)
    return Shape(tuple(dims))


@handles(torch.split, ".split", params="input size dim")
def split(call: Call) -> Annotation:
    return _parts(call)


@handles(torch.tensor_split, ".tensor_split", params="input indices dim")
def tensor_split(call: Call) -> Annotation:
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
    lengths = [tensor.shape[dim] for tensor in call.result]
    if not is_spatial(dims[dim]):
        pieces = list(map(fixed_dim, lengths))
    elif _makes_stripes(call, dims[dim], lengths):
        pieces = _stripes(call, dims[dim][0], lengths)
    else:
        pieces = _split_concatenation(call, dims[dim], lengths)
    return tuple(Shape((*dims[:dim], piece, *dims[dim + 1 :])) for piece in pieces)


def _makes_stripes(call: Call, dim: Dim, lengths: list[int]) -> bool:
    """Whether a map is divided into equal parts of several pixels, by their number or size."""
    bounds = "indices" in call.params and _several(call.raw("indices"))
    equal = len(lengths) > 1 and len(set(lengths)) == 1 and lengths[0] > 1
    return equal and not bounds and len(dim) == 1 and type(dim[0]) is Axis


def _stripes(call: Call, axis: Axis, lengths: list[int]) -> list[Dim]:
    count, stripe = call.annotator.parts.split(
        call.node, axis, (len(lengths), lengths[0]), (True, False)
    )
    call.annotator.parts.keep((count,))
    sizes: Any = call.raw("size") if "size" in call.params else None
    named = sizes if _several(sizes) else [sizes]
    if any(isinstance(size, int) for size in named):
        new = [(stripe,) if isinstance(size, int) else size for size in named]
        call.annotator.substitute(
            call.node, new if _several(sizes) else new[0], argument=call.place("size")
        )
    return [(stripe,)] * len(lengths)


def _split_concatenation(call: Call, dim: Dim, lengths: list[int]) -> list[Dim]:
    given = "indices" if "indices" in call.params else "size"
    numbers = call.raw(given) if given in call.params else None
    if len(dim) > 1 or not isinstance(dim[0], Concatenation) or not _several(numbers):
        call.annotator.parts.keep(dim)
        raise call.refuse(
            "splits a feature map along a spatial axis",
            "divide it into equal parts of several pixels, or split channels",
        )
    ends = list(accumulate(lengths, initial=0))
    pieces = [parts_between(call, dim[0], *ends[i : i + 2]) for i in range(len(lengths))]
    counted = [position(call, dim[0], end) for end in ends[1:-1]] if given == "indices" else pieces
    new = [
        part if isinstance(raw, int) else raw for raw, part in zip(numbers, counted, strict=True)
    ]
    call.annotator.substitute(call.node, new, argument=call.place(given))
    return pieces


def _several(numbers: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(numbers, list | tuple)
