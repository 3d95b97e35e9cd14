"""torch's attention and transformer layers, whose tokens may be the pixels of a feature map.

Attention is a mean over tokens, weighted by what they hold: where a token lies, and how many there
are, does not matter. The result has the tokens of the first argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fxscale.passes.annotations import fixed_dims
from fxscale.passes.axes import Annotation, Dims, Shape, is_spatial
from fxscale.passes.ops.join import meet
from fxscale.passes.ops.registry import Call, handles


@handles(
    nn.MultiheadAttention,
    params="query key value key_padding_mask need_weights attn_mask average_attn_weights is_causal",
)
def multihead_attention(call: Call) -> Annotation:
    module: Any = call.module
    query, key, value = _tokens(call, ("query", "key", "value"), ("key_padding_mask", "attn_mask"))
    if module.bias_k is not None or module.add_zero_attn:
        raise call.refuse("adds a token of its own", "use add_bias_kv=False, add_zero_attn=False")
    batch, tokens = (0, 1) if module.batch_first else (1, 0)
    pairs = zip((call.raw("key"), call.raw("value")), (key, value), strict=True)
    keys = meet(call, [(node, tokens, dims[tokens]) for node, dims in pairs], adaptable=False)
    if not call.value("need_weights", True):
        return Shape(query), None
    averaged = call.value("average_attn_weights", True)
    heads = () if averaged else fixed_dims([module.num_heads])
    return Shape(query), Shape((query[batch], *heads, query[tokens], keys))


@handles(nn.TransformerEncoderLayer, params="src src_mask src_key_padding_mask is_causal")
@handles(nn.TransformerEncoder, params="src mask src_key_padding_mask is_causal")
@handles(
    nn.TransformerDecoderLayer,
    nn.TransformerDecoder,
    params="tgt memory tgt_mask memory_mask tgt_key_padding_mask memory_key_padding_mask "
    "tgt_is_causal memory_is_causal",
)
def transformer(call: Call) -> Annotation:
    assert call.module is not None
    if not all(type(part).__module__.startswith("torch.nn.") for part in call.module.modules()):
        raise call.refuse("has layers that are not torch's", "call them one by one in forward")
    names = [name for name in ("src", "tgt", "memory") if name in call.params]
    masks = [name for name in call.params if name.endswith("mask")]
    return Shape(_tokens(call, names, masks)[0])


def _tokens(call: Call, names: Sequence[str], masks: Sequence[str]) -> list[Dims]:
    """The dimensions of these arguments, `(N, L, E)` or `(L, N, E)`; no pixel may be masked."""
    tokens = [call.dims(name) for name in names]
    if any(len(dims) != 3 or is_spatial(dims[2]) for dims in tokens):
        raise call.refuse("tokens without a batch, or made of pixels", "pass (N, L, E)")
    if any(call.raw(mask) is not None for mask in masks) and any(
        is_spatial(dim) for dims in tokens for dim in dims
    ):
        raise call.refuse("a mask over pixels belongs to one size", "attend without a mask")
    return tokens
