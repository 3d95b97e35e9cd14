"""Part of pass 9: operators that keep amplitudes where a network sums over fewer things.

1. A sum over pixels is multiplied by how many more the target has (`Scaling`).
2. A weight that is normalised in the graph is multiplied as `weight_amplitude.py` derives.

No operator stands where its factor is 1, so that a network of the target's size is the target's.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from math import prod

from torch import fx, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from fxscale.passes.axes import ConvSite, Lengths, Scaling
from fxscale.passes.sites import Sites
from fxscale.spectral import RescaledSpectralNorm


def insert_scalings(
    graph: fx.Graph, scalings: Sequence[Scaling], lengths: Lengths
) -> dict[fx.Node, fx.Node]:
    """Multiply every sum; returns the nodes that stand for the sums from now on."""
    scaled: dict[fx.Node, fx.Node] = {}
    for scaling in scalings:
        factor = prod(axis.target / axis.length(lengths) for axis in scaling.axes) ** scaling.power
        if factor != 1:
            node = scaling.node
            users = tuple(node.users)
            with graph.inserting_after(node):
                scaled[node] = _times(graph, node, factor)
            for user in users:
                user.replace_input_with(node, scaled[node])
    return scaled


def scale_weights(
    root: nn.Module, graph: fx.Graph, sites: Sites, kernels: Mapping[str, tuple[int, ...]]
) -> None:
    """Multiply the computed weights of all convolutions whose kernel becomes smaller."""
    for convolution in sites.convolutions:
        if convolution.computed is None:
            continue
        larger = prod(convolution.kernel_size) / prod(kernels[convolution.weight])
        factor = larger**convolution.computed.power
        for call in convolution.calls:
            if factor != 1:
                _scale_weight(root, graph, call, factor)


def _scale_weight(root: nn.Module, graph: fx.Graph, call: ConvSite, factor: float) -> None:
    node = call.node
    if node.op == "call_module":  # a hook computes the weight within the call
        hooks = root.get_submodule(str(node.target))._forward_pre_hooks
        for key, hook in hooks.items():
            if isinstance(hook, SpectralNorm) and not isinstance(hook, RescaledSpectralNorm):
                hooks[key] = RescaledSpectralNorm(hook, factor)
        return
    weight = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
    assert isinstance(weight, fx.Node)
    with graph.inserting_before(node):
        scaled = _times(graph, weight, factor)
    if len(node.args) > 1:
        node.args = (node.args[0], scaled, *node.args[2:])
    else:
        node.kwargs = {**node.kwargs, "weight": scaled}


def _times(graph: fx.Graph, node: fx.Node, factor: float) -> fx.Node:
    product = graph.call_function(operator.mul, (node, factor))
    product.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    return product
