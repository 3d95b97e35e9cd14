"""What each operator does to axes: one file per family, all registered on import."""

from __future__ import annotations

from fxscale.passes.ops import (
    attention,
    conv,
    elementwise,
    join,
    linear,
    parameter,
    pool,
    reduce,
    reshape,
    resize,
    shape,
    slicing,
)

__all__ = [
    "attention",
    "conv",
    "elementwise",
    "join",
    "linear",
    "parameter",
    "pool",
    "reduce",
    "reshape",
    "resize",
    "shape",
    "slicing",
]
