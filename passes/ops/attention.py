"""Products of matrices and attention, where tokens may be the pixels of a feature map.

A contraction over channels does not notice the size of a map. One over pixels is a sum that grows
with their number, unless its weights sum to one: it is accepted behind a softmax over the same
pixels, and refused otherwise.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Annotation, Dim, Shape, is_spatial
from fxscale.passes.ops.join import meet
from fxscale.passes.ops.registry import Call, handles
from fxscale.passes.tracer import VALUE

_SOFTMAX: tuple[Any, ...] = (torch.softmax, F.softmax, "softmax")
_KEEPS_WEIGHTS: tuple[Any, ...] = (
    F.dropout,
    torch.dropout,
    torch.clone,
    "clone",
    "contiguous",
    "float",
    "half",
    "to",
    "type_as",
)


@handles(
    torch.matmul,
    torch.bmm,
    operator.matmul,
    ".matmul",
    ".bmm",
    ".__matmul__",
    params="input other",
)
def matrix_product(call: Call) -> Annotation:
    left, right = call.dims("input"), call.dims("other")
    if len(left) < 2 or len(right) < 2:
        raise call.refuse("a product with a vector", "use a linear layer, or unsqueeze the vector")
    contracted, other = left[-1], right[-2]
    if is_spatial(contracted) or is_spatial(other):
        if contracted != other:
            raise call.refuse(
                "a contraction of two dimensions that are made of different axes",
                "flatten both feature maps in the same order",
            )
        if not _sums_to_one(call, call.raw("input"), -1) and not _sums_to_one(
            call, call.raw("other"), -2
        ):
            raise call.refuse(
                "a sum over the pixels of a feature map grows with its size",
                "normalise by a softmax over the pixels, or register a handler for the module",
            )
    return Shape((*_batch(call, left[:-2], right[:-2]), left[-2], right[-1]))


@handles(
    F.scaled_dot_product_attention,
    params="query key value attn_mask dropout_p is_causal scale enable_gqa",
)
def attention(call: Call) -> Annotation:
    query, key, value = (call.dims(name) for name in ("query", "key", "value"))
    if key[-2] != value[-2]:
        raise call.refuse("keys and values are made of different axes", "compute both from one map")
    if call.raw("attn_mask") is not None and (is_spatial(query[-2]) or is_spatial(key[-2])):
        raise call.refuse("a mask over pixels belongs to one size", "attend without a mask")
    batch = _batch(call, _batch(call, query[:-2], key[:-2]), value[:-2])
    return Shape((*batch, query[-2], value[-1]))


def _batch(call: Call, left: tuple[Dim, ...], right: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Batch dimensions, broadcast; a spatial one must be the same on both sides."""
    rank = max(len(left), len(right))
    padded = [(((),) * (rank - len(dims)) + dims) for dims in (left, right)]
    node = call.node.args[0]
    assert isinstance(node, fx.Node)
    pairs = zip(*padded, strict=True)
    if any(is_spatial(a) and is_spatial(b) and a != b for a, b in pairs):
        raise call.refuse("batches of differently computed feature maps", "use one feature map")
    return tuple(
        meet(call, [(node, i, a), (node, i, b)])
        for i, (a, b) in enumerate(zip(*padded, strict=True))
    )


def _sums_to_one(call: Call, node: Any, dim: int) -> bool:
    """Whether a softmax over `dim` made the tensor; dropout and casts may stand behind it."""
    while isinstance(node, fx.Node):
        module = (
            call.annotator.network.model.get_submodule(str(node.target))
            if node.op == "call_module"
            else None
        )
        if isinstance(module, nn.Softmax):
            return module.dim is not None and _same_dim(node, module.dim, dim)
        if node.op != "call_module" and node.target in _SOFTMAX:
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            return isinstance(axis, int) and _same_dim(node, axis, dim)
        keeps = isinstance(module, nn.Dropout | nn.Identity) or node.target in _KEEPS_WEIGHTS
        if not keeps:
            return False
        node = node.args[0] if node.args else None
    return False


def _same_dim(node: fx.Node, first: int, second: int) -> bool:
    rank: int = node.meta[VALUE].ndim
    return first % rank == second % rank
