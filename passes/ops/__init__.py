"""What each operator does to axes: one file per family, all registered on import."""

from __future__ import annotations

from fxscale.passes.ops import (
    attention,
    conv,
    elementwise,
    extremes,
    join,
    linear,
    multihead,
    normalise,
    parameter,
    pool,
    product,
    recurrent,
    reduce,
    repeat,
    reshape,
    resize,
    shape,
    slicing,
    unfold,
    weight_norm,
)

__all__ = [
    "attention",
    "conv",
    "elementwise",
    "extremes",
    "join",
    "linear",
    "multihead",
    "normalise",
    "parameter",
    "pool",
    "product",
    "recurrent",
    "reduce",
    "repeat",
    "reshape",
    "resize",
    "shape",
    "slicing",
    "unfold",
    "weight_norm",
]
