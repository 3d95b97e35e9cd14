"""`nn.MultiheadAttention`, whose tokens may be the pixels of a feature map."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxscale.passes.axes import Annotation, Shape, is_spatial
from fxscale.passes.ops.join import meet
from fxscale.passes.ops.registry import Call, handles


@handles(
    nn.MultiheadAttention,
    params="query key value key_padding_mask need_weights attn_mask average_attn_weights is_causal",
)
def multihead_attention(call: Call) -> Annotation:
    module: Any = call.module
    query, key, value = (call.dims(name) for name in ("query", "key", "value"))
    if len(query) != 3 or any(is_spatial(dims[2]) for dims in (query, key, value)):
        raise call.refuse("tokens without a batch, or made of pixels", "pass (N, L, E)")
    if module.bias_k is not None or module.add_zero_attn:
        raise call.refuse("adds a token of its own", "use add_bias_kv=False, add_zero_attn=False")
    batch, tokens = (0, 1) if module.batch_first else (1, 0)
    spatial = is_spatial(query[tokens]) or is_spatial(key[tokens])
    for mask in ("key_padding_mask", "attn_mask"):
        if call.raw(mask) is not None and spatial:
            raise call.refuse("a mask over pixels belongs to one size", "attend without a mask")
    pairs = zip((call.raw("key"), call.raw("value")), (key, value), strict=True)
    keys = meet(call, [(node, tokens, dims[tokens]) for node, dims in pairs], adaptable=False)
    if not call.value("need_weights", True):
        return Shape(query), None
    heads = () if call.value("average_attn_weights", True) else (_heads(call),)
    return Shape(query), Shape((query[batch], *heads, query[tokens], keys))


def _heads(call: Call) -> Any:
    from fxscale.passes.annotations import fixed_dims

    module: Any = call.module
    return fixed_dims([module.num_heads])[0]
