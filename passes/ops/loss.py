"""Losses that a forward computes on its own maps, such as what keeps a codebook near its pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import Annotation, Shape
from fxscale.passes.ops.join import broadcast
from fxscale.passes.ops.registry import Call, handles


@handles(nn.HuberLoss, nn.L1Loss, nn.MSELoss, nn.SmoothL1Loss, params="input target")
@handles(F.huber_loss, params="input target reduction")
@handles(
    F.l1_loss,
    F.mse_loss,
    F.smooth_l1_loss,
    params="input target size_average reduce reduction",
)
def difference(call: Call) -> Annotation:
    """Element by element, then the mean, which does not grow with the pixels, or the sum."""
    dims = broadcast(call, ("input", "target")).dims
    if call.module is not None:
        reduction = call.module.reduction
    elif any(call.node.kwargs.get(name) is not None for name in ("size_average", "reduce")):
        raise call.refuse("unusual arguments", "use reduction")
    else:
        reduction = call.value("reduction", "mean")
    if reduction == "none":
        return Shape(dims)
    if reduction == "sum":
        call.annotator.sums_over(call.node, tuple(axis for dim in dims for axis in dim), power=1.0)
    return Shape(())
