"""Recurrent layers over a sequence of pixels: its length is free, its features are not."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxscale.passes.axes import Annotation, Shape, is_spatial
from fxscale.passes.ops.registry import Call, handles


@handles(nn.LSTM, nn.GRU, nn.RNN, params="input hx")
def recurrent(call: Call) -> Annotation:
    """`(L, N, H)` or `(N, L, H)` with `batch_first`, then the last states, which have no pixels."""
    from fxscale.passes.annotations import fixed_annotation, fixed_dims

    module: Any = call.module
    dims = call.dims()
    batch = 0 if module.batch_first else 1
    if is_spatial(dims[-1]) or (len(dims) == 3 and is_spatial(dims[batch])):
        raise call.refuse(
            "its features or its batch are made of pixels, whose number changes",
            "pool the map to a fixed number of features first, or keep their axis whole with a "
            "fully connected layer in front",
        )
    output, states = call.result
    return (Shape((*dims[:-1], *fixed_dims(output.shape[-1:]))), fixed_annotation(states))
