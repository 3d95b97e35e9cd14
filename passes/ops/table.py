"""Tables that every pixel reads at a number of its own: codebooks, labels as vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import Annotation, Shape, fixed_dim
from fxscale.passes.ops.registry import Call, handles


@handles(nn.Embedding, F.one_hot, params="input")
def vectors(call: Call) -> Annotation:
    """One vector, behind all other dimensions, for every number."""
    return Shape((*call.dims(), fixed_dim(call.result.shape[-1])))


@handles(F.embedding, params="input weight")
def embedding(call: Call) -> Annotation:
    return Shape((*call.dims("input"), call.dims("weight")[-1]))
