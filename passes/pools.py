"""Part of pass 9: max pools get the paddings that were solved for.

A module gets the padding that all of its calls agree on. Where they do not, those that change
become calls of the function, for the others keep the module as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.graph_edits import pad_before, set_argument, tensor_input
from fxscale.passes.padding import PoolPadding

_FUNCTIONS = {nn.MaxPool1d: F.max_pool1d, nn.MaxPool2d: F.max_pool2d, nn.MaxPool3d: F.max_pool3d}


def pad_pools(root: nn.Module, graph: fx.Graph, pools: Mapping[fx.Node, PoolPadding]) -> None:
    """Set paddings and `ceil_mode` of the max pools in `pools`, and pad in front of some."""
    calls: dict[Any, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(root.get_submodule(str(node.target)), []).append(node)
    for module, nodes in calls.items():
        wanted = {pools.get(node) for node in nodes}
        if len(wanted) > 1:
            for node in pools.keys() & nodes:
                _call_function(node, module)
        elif (pool := wanted.pop()) is not None:
            module.padding, module.ceil_mode = pool.padding, pool.ceil_mode
    for node, pool in pools.items():
        if pool.extra is not None:
            source = tensor_input(node)
            node.replace_input_with(source, pad_before(graph, node, source, pool.extra, value=-inf))
        if node.op == "call_function":
            set_argument(node, "padding", pool.padding)
            set_argument(node, "ceil_mode", pool.ceil_mode)


def _call_function(node: fx.Node, pool: Any) -> None:
    """Make a call of a max pool's module one of the function, with the module's settings."""
    source = tensor_input(node)
    node.op, node.target = "call_function", _FUNCTIONS[type(pool)]
    node.args = (source, pool.kernel_size, pool.stride)
    node.kwargs = {"dilation": pool.dilation}
