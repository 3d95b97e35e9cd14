"""Layers whose parameters are laid out over a feature map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Annotation, Shape, is_spatial
from fxscale.passes.ops.registry import Call, handles


@handles(nn.LayerNorm, nn.RMSNorm)
def layer_norm(call: Call) -> Annotation:
    assert isinstance(call.module, nn.LayerNorm | nn.RMSNorm)
    dims = call.dims()
    normalised = dims[len(dims) - len(call.module.normalized_shape) :]
    if any(map(is_spatial, normalised)):
        for name, _ in call.module.named_parameters():
            call.annotator.feature(f"{call.node.target}.{name}", normalised)
        call.annotator.substitute(call.node, tuple(normalised), attribute="normalized_shape")
    return Shape(dims)


@handles(F.layer_norm, params="input normalized_shape weight bias eps")
@handles(F.rms_norm, params="input normalized_shape weight eps")
def layer_norm_function(call: Call) -> Annotation:
    dims = call.dims()
    normalised = dims[len(dims) - len(call.value("normalized_shape")) :]
    if any(map(is_spatial, normalised)):
        for name in ("weight", "bias"):
            parameter = call.raw(name) if name in call.params else None
            if isinstance(parameter, fx.Node):
                if parameter.op != "get_attr":
                    raise call.refuse(f"its {name} is computed", "use a parameter")
                call.annotator.feature(str(parameter.target), normalised)
        call.annotator.substitute(
            call.node, tuple(normalised), argument=call.place("normalized_shape")
        )
    return Shape(dims)
