"""Products that sum over dimensions: matrix products and `torch.einsum`.

A contraction over channels does not notice the size of a map. One over pixels is a sum that grows
with their number; `passes/shares.py` decides what keeps its amplitude.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Annotation, Dim, Dims, Shape, is_spatial, target_length
from fxscale.passes.ops.join import broadcast, meet
from fxscale.passes.ops.registry import Call, handles
from fxscale.passes.origins import Origin

_COMMON, _ROWS, _COLUMNS = range(3)
"""What the last two dimensions of two operands are called."""


@handles(
    torch.matmul,
    torch.bmm,
    torch.mm,
    operator.matmul,
    ".matmul",
    ".bmm",
    ".mm",
    ".__matmul__",
    params="input other",
)
def matrix_product(call: Call) -> Annotation:
    left, right = call.dims("input"), call.dims("other")
    if len(left) < 2 or len(right) < 2:
        raise call.refuse("a product with a vector", "use a linear layer, or unsqueeze the vector")
    return _of_rows(call, ("input", "other"), [_COMMON, _COLUMNS])


@handles(torch.cdist, params="x1 x2")
def distances(call: Call) -> Annotation:
    """Between every row of one and every row of the other, as a codebook asks for them."""
    left, right = call.dims("x1"), call.dims("x2")
    if is_spatial(left[-1]) or is_spatial(right[-1]):
        raise call.refuse(
            "distances between pictures grow with their pixels", "compare channels, or use a mean"
        )
    return _of_rows(call, ("x1", "x2"), [_COLUMNS, _COMMON])


def _of_rows(call: Call, arguments: Sequence[str], second: Sequence[int]) -> Shape:
    """The rows of the first with what `second` calls the last two dimensions of the other."""
    before = [[*range(-len(call.dims(name)), -2)] for name in arguments]
    letters = [[*before[0], _ROWS, _COMMON], [*before[1], *second]]
    return contract(call, arguments, letters, [*max(before, key=len), _ROWS, _COLUMNS])


@handles(F.cosine_similarity, params="x1 x2 dim")
@handles(nn.CosineSimilarity, params="x1 x2")
def cosine_similarity(call: Call) -> Annotation:
    """The product of two unit vectors does not grow with their length."""
    dims = list(broadcast(call, ("x1", "x2")).dims)
    module = call.module
    del dims[module.dim if isinstance(module, nn.CosineSimilarity) else call.value("dim", 1)]
    return Shape(tuple(dims))


@handles(torch.einsum, params="equation *operands")
def einsum(call: Call) -> Annotation:
    equation = call.raw("equation")
    assert isinstance(equation, str)  # of operands and lists in turn torch refuses proxies
    operands = call.raw("operands")
    ranks = [len(shape.dims) for shape in call.annotation("operands")]
    inputs, output = _parsed(equation, ranks)
    dims = [shape.dims for shape in call.annotation("operands")]
    return _contracted(call, list(operands), dims, inputs, output)


def _parsed(equation: str, ranks: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Every dimension as a number: letters as they are, those of an ellipsis counted backwards."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    inputs = []
    for term, rank in zip(terms, ranks, strict=True):
        before, dots, after = term.partition("...")
        hidden = rank - len(before) - len(after) if dots else 0
        inputs.append([*map(ord, before), *range(-hidden, 0), *map(ord, after)])
    widest = max(
        (-min(letters, default=0) for letters in inputs if min(letters, default=0) < 0), default=0
    )
    every = range(-widest, 0)
    if arrow:
        before, dots, after = right.partition("...")
        return inputs, [*map(ord, before), *(every if dots else ()), *map(ord, after)]
    flat = [letter for letters in inputs for letter in letters if letter >= 0]
    return inputs, [*every, *sorted(letter for letter in set(flat) if flat.count(letter) == 1)]


def contract(
    call: Call,
    arguments: Sequence[str],
    inputs: Sequence[Sequence[int]],
    output: Sequence[int],
) -> Shape:
    """The result of a product over named arguments whose dimensions are called by numbers."""
    operands = [call.raw(name) for name in arguments]
    return _contracted(call, operands, [call.dims(name) for name in arguments], inputs, output)


def _lay_constants(call: Call, entries: Sequence[tuple[fx.Node, int, Dim]]) -> None:
    """Constants of the target take the axes of the maps that they are multiplied with."""
    maps = [dim for _, _, dim in entries if is_spatial(dim)]
    for node, _, dim in entries:
        constant = call.annotator.origins[node] is Origin.CONSTANT
        fixed = maps and constant and not is_spatial(dim) and target_length(dim) > 1
        if fixed and not call.annotator.constants.lay(dim, maps[0]):
            raise call.refuse(
                "a spatial axis meets one that does not scale",
                "compute both operands from feature maps of the same size",
            )


def _contracted(
    call: Call,
    operands: Sequence[fx.Node],
    dims: Sequence[Dims],
    inputs: Sequence[Sequence[int]],
    output: Sequence[int],
) -> Shape:
    present: dict[int, list[tuple[fx.Node, int, Dim]]] = {}
    for node, shape, letters in zip(operands, dims, inputs, strict=True):
        for index, (letter, dim) in enumerate(zip(letters, shape, strict=True)):
            present.setdefault(letter, []).append((node, index, dim))
    for letter, entries in present.items():
        nodes = [node for node, _, _ in entries]
        if len(nodes) > len(operands) or any(
            letters.count(letter) > 1 and is_spatial(entries[0][2]) for letters in inputs
        ):
            raise call.refuse("the diagonal of a feature map", "take it out of the network")
    for entries in present.values():
        _lay_constants(call, entries)
    met = {letter: meet(call, entries, adaptable=False) for letter, entries in present.items()}
    for letter in present.keys() - set(output):
        axes = {axis for _, _, dim in present[letter] for axis in dim}
        call.annotator.sums_over(call.node, met[letter], axes)
    return Shape(tuple(met[letter] for letter in output))
