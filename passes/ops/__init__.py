"""What each operator does to axes: one file per family, all registered on import."""

from __future__ import annotations

from fxscale.passes.ops import (
    attention,
    conv,
    elementwise,
    extremes,
    join,
    linear,
    parameter,
    pool,
    recurrent,
    reduce,
    reshape,
    resize,
    normalise,
    product,
    weight_norm,
    repeat,
    unfold,
    multihead,
    shape,
    slicing,
)

__all__ = [
    "attention",
    "conv",
    "elementwise",
    "extremes",
    "join",
    "linear",
    "parameter",
    "pool",
    "recurrent",
    "reduce",
    "reshape",
    "resize",
    "normalise",
    "product",
    "weight_norm",
    "repeat",
    "unfold",
    "multihead",
    "shape",
    "slicing",
]
