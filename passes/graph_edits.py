"""Edits of a traced graph that several parts of the rewrite make."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx

from fxscale.passes.ops.registry import lookup
from fxscale.plan import Padding


def tensor_input(node: fx.Node) -> fx.Node:
    """The tensor that a layer or function is called on."""
    source = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(source, fx.Node)
    return source


def pad_before(
    graph: fx.Graph,
    user: fx.Node,
    source: fx.Node,
    padding: Padding,
    mode: str = "constant",
    value: float = 0.0,
) -> fx.Node:
    """Insert `F.pad` over the trailing axes; crops come first, as only constants are negative."""
    crops = [(min(before, 0), min(after, 0)) for before, after in padding]
    grows = [(max(before, 0), max(after, 0)) for before, after in padding]
    steps: list[tuple[list[tuple[int, int]], str]] = [(list(padding), mode)]
    if mode != "constant":
        steps = [(crops, "constant"), (grows, mode)]
    for amounts, how in steps:
        if all(pair == (0, 0) for pair in amounts):
            continue
        flat = [amount for pair in reversed(amounts) for amount in pair]
        with graph.inserting_before(user):
            options: dict[str, Any] = {} if how == "constant" else {"mode": how}
            options |= {"value": value} if value else {}
            new = graph.call_function(F.pad, (source, flat), options)
        new.meta["nn_module_stack"] = user.meta.get("nn_module_stack")
        source = new
    return source


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set a call's argument by name, wherever it stands."""
    registration = lookup(f".{node.target}" if node.op == "call_method" else node.target)
    assert registration is not None
    index = registration.params.index(name)
    if index < len(node.args):
        node.args = (*node.args[:index], value, *node.args[index + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}
