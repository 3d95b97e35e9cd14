"""Attention, where tokens may be the pixels of a feature map: its weights sum to one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx

from fxscale.passes.axes import Annotation, Dim, Shape, is_spatial
from fxscale.passes.ops.constant import follows, lay_over
from fxscale.passes.ops.join import meet
from fxscale.passes.ops.registry import Call, handles


@handles(
    F.scaled_dot_product_attention,
    params="query key value attn_mask dropout_p is_causal scale enable_gqa",
)
def attention(call: Call) -> Annotation:
    query, key, value = (call.dims(name) for name in ("query", "key", "value"))
    sources = call.raw("key"), call.raw("value")
    tokens = meet(
        call,
        [(node, len(dims) - 2, dims[-2]) for node, dims in zip(sources, (key, value), strict=True)],
        adaptable=False,
    )
    batch = _batch(call, _batch(call, query[:-2], key[:-2]), value[:-2])
    mask = call.raw("attn_mask")
    if isinstance(mask, fx.Node):
        _mask(call, mask, (*batch, query[-2], tokens))
    return Shape((*batch, query[-2], value[-1]))


def _mask(call: Call, mask: fx.Node, logits: tuple[Dim, ...]) -> None:
    """A mask or bias over the logits: of their own axes, or laid over them."""
    dims = call.dims("attn_mask")
    pairs = zip(dims, logits[len(logits) - len(dims) :], strict=True)
    if not follows(call, mask) and any(
        is_spatial(out) and dim not in ((), out) for dim, out in pairs
    ):
        raise call.refuse(
            "its mask is made of other axes than queries and keys", "compute both from one map"
        )
    lay_over(call, mask, dims, logits)


def _batch(call: Call, left: tuple[Dim, ...], right: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Batch dimensions, broadcast."""
    rank = max(len(left), len(right))
    padded = [(((),) * (rank - len(dims)) + dims) for dims in (left, right)]
    node = call.raw("query")
    return tuple(
        meet(call, [(node, i, a), (node, i, b)], adaptable=False)
        for i, (a, b) in enumerate(zip(*padded, strict=True))
    )
