"""Linear layers: where their input features hold spatial axes, they are a fully connected
interface (section 3.2.2), in whatever way the feature map was flattened."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Annotation, Axis, Dim, LinearSite, Row, Shape, is_spatial
from fxscale.passes.axis_checks import require_map
from fxscale.passes.distances import Distances
from fxscale.passes.ops.registry import Call, handles
from fxscale.passes.proxies import VALUE


@handles(nn.Linear)
def linear_module(call: Call) -> Annotation:
    assert isinstance(call.module, nn.Linear)
    name = str(call.node.target)
    if "weight" not in call.module._parameters and is_spatial(call.dims()[-1]):
        raise call.refuse(
            "it reads a flattened feature map with a weight that a hook computes",
            "remove the hook before downscale",
        )
    return _linear(call, name, f"{name}.weight", call.module.out_features)


@handles(F.linear, params="input weight bias")
def linear_function(call: Call) -> Annotation:
    weight = call.raw("weight")
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        if any(map(is_spatial, call.dims())):
            raise call.refuse(
                "the weight is computed, not a parameter", "use nn.Linear, or register a handler"
            )
        return Shape((*call.dims()[:-1], _features(call.result.shape[-1])))
    if is_spatial(call.dims()[-1]) and not call.annotator.is_state(weight):
        raise call.refuse(
            "its weight is a constant of the code and belongs to one size of the map",
            "register the weight as a buffer, whose size then follows the map",
        )
    key = str(weight.target)
    return _linear(call, key, key, weight.meta[VALUE].shape[0])


def _linear(call: Call, name: str, weight: str, out_features: int) -> Annotation:
    *rows, dim = call.dims()
    call.annotator.parts.keep(dim)
    for axis in dim:
        if isinstance(axis, Row | Distances):  # a concatenation has weights for each of its parts
            require_map(call.node, axis)
    site = LinearSite(call.node, name, weight, dim, out_features, tuple(rows))
    call.annotator.linears.append(site)
    if is_spatial(dim) and call.module is not None:
        call.annotator.substitute(call.node, dim, attribute="in_features")
    return Shape((*rows, _features(out_features)))


def _features(length: int) -> Dim:
    return () if length == 1 else (Axis(length, spatial=False),)
