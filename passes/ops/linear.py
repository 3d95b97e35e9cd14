"""Linear layers: where their input features hold spatial axes, they are a fully connected
interface (section 3.2.2), in whatever way the feature map was flattened; where their output
features do, they begin a decoder (`passes/unflattened.py`)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Annotation, LinearSite, Row, Shape, fixed_dim, is_spatial
from fxscale.passes.axis_checks import require_map
from fxscale.passes.distances import Distances
from fxscale.passes.ops.registry import Call, handles


@handles(nn.Linear)
def linear_module(call: Call) -> Annotation:
    assert isinstance(call.module, nn.Linear)
    name = str(call.node.target)
    if "weight" not in call.module._parameters and is_spatial(call.dims()[-1]):
        raise call.refuse(
            "it reads a flattened feature map with a weight that a hook computes",
            "remove the hook before downscale",
        )
    bias = None if call.module.bias is None else f"{name}.bias"
    plain = "weight" in call.module._parameters and not call.module._forward_pre_hooks
    return _linear(call, name, f"{name}.weight", bias, plain=plain)


@handles(F.linear, params="input weight bias")
def linear_function(call: Call) -> Annotation:
    weight = call.raw("weight")
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        if any(map(is_spatial, call.dims())):
            raise call.refuse(
                "the weight is computed, not a parameter", "use nn.Linear, or register a handler"
            )
        return Shape((*call.dims()[:-1], fixed_dim(call.result.shape[-1])))
    if is_spatial(call.dims()[-1]) and not call.annotator.is_state(weight):
        raise call.refuse(
            "its weight is a constant of the code and belongs to one size of the map",
            "register the weight as a buffer, whose size then follows the map",
        )
    key, bias = str(weight.target), call.raw("bias")
    operands = [operand for operand in (weight, bias) if isinstance(operand, fx.Node)]
    plain = all(call.annotator.is_state(operand) for operand in operands)
    return _linear(call, key, key, str(bias.target) if bias in operands else None, plain=plain)


def _linear(call: Call, name: str, weight: str, bias: str | None, *, plain: bool) -> Annotation:
    """`plain` says that weight and bias are entries of the state as they are."""
    *rows, dim = call.dims()
    call.annotator.parts.keep(dim)
    for axis in dim:
        if isinstance(axis, Row | Distances):  # a concatenation has weights for each of its parts
            require_map(call.node, axis)
    out = fixed_dim(call.result.shape[-1])
    if plain and not any(map(is_spatial, call.dims())):  # one vector a sample
        out = call.annotator.unflattened.features(call, weight, bias, out)
    call.annotator.linears.append(LinearSite(call.node, name, weight, dim, out, tuple(rows)))
    if call.module is not None:
        for attribute, features in (("in_features", dim), ("out_features", out)):
            if is_spatial(features):
                call.annotator.substitute(call.node, features, attribute=attribute)
    return Shape((*rows, out))
