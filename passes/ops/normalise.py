"""Softmax and norms over a dimension: over pixels, they make shares (`passes/shares.py`)."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import Annotation, is_spatial
from fxscale.passes.ops.registry import Call, handles


@handles(nn.Softmax, nn.Softmin)
def softmax_module(call: Call) -> Annotation:
    module: Any = call.module
    return _share(call, module.dim, -1.0)


@handles(torch.softmax, F.softmax, F.softmin, ".softmax", params="input dim")
def softmax(call: Call) -> Annotation:
    return _share(call, call.value("dim"), -1.0)


@handles(F.normalize, params="input p dim eps out")
def normalise(call: Call) -> Annotation:
    order: Any = call.value("p", 2.0)
    if order <= 0:
        raise call.refuse(f"a norm of order {order!r}", "use a positive order")
    return _share(call, call.value("dim", 1), 0.0 if order == inf else -1.0 / order)


def _share(call: Call, dim: Any, power: float) -> Annotation:
    dims = call.dims()
    if dim is None:
        if any(map(is_spatial, dims)):
            raise call.refuse("the dimension is left to torch", "name the dimension")
        return call.annotation("input")
    over = {d % len(dims) for d in (dim if isinstance(dim, tuple | list) else (dim,))}
    axes = tuple(axis for index in sorted(over) for axis in dims[index])
    call.annotator.amplitudes.share_over(call.node, axes, power)
    return call.annotation("input")
