"""A `torch.fx.Graph` as plain data, for pickling.

`fx.GraphModule` pickles its generated code and traces it again on load, which bakes in whatever
the code reads from modules (such as their `training` flags). Nodes as records lose nothing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from torch import fx


@dataclass(frozen=True)
class NodeReference:
    """Stands for a node in the arguments of another."""

    name: str


@dataclass(frozen=True)
class FunctionReference:
    """Stands for a function that pickle cannot name, such as `F.max_pool2d`."""

    module: str
    name: str


@dataclass(frozen=True)
class NodeRecord:
    op: str
    name: str
    target: Any
    args: Any
    kwargs: Any


PortableGraph = tuple[NodeRecord, ...]


def to_portable(graph: fx.Graph) -> PortableGraph:
    def refer(argument: Any) -> Any:
        return fx.node.map_arg(argument, reference)

    def reference(node: fx.Node) -> Any:
        return NodeReference(node.name)

    return tuple(
        NodeRecord(
            node.op, node.name, _refer_function(node.target), refer(node.args), refer(node.kwargs)
        )
        for node in graph.nodes
    )


def from_portable(records: PortableGraph) -> fx.Graph:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def load(argument: Any) -> Any:
        if isinstance(argument, NodeReference):
            return nodes[argument.name]
        if isinstance(argument, slice):
            return slice(load(argument.start), load(argument.stop), load(argument.step))
        if isinstance(argument, tuple) and hasattr(argument, "_fields"):
            return type(argument)(*map(load, argument))
        if isinstance(argument, tuple | list):
            return type(argument)(map(load, argument))
        if isinstance(argument, dict):
            return {key: load(value) for key, value in argument.items()}
        return argument

    for record in records:
        nodes[record.name] = graph.create_node(
            record.op,
            _load_function(record.target),
            load(record.args),
            load(record.kwargs),
            record.name,
        )
    return graph


def _refer_function(target: Any) -> Any:
    """Functions that `torch` makes at run time are found under their own name, not their code's."""
    module, name = getattr(target, "__module__", None), getattr(target, "__name__", None)
    local = "<locals>" in getattr(target, "__qualname__", "")
    if local and module and name and getattr(importlib.import_module(module), name, 0) is target:
        return FunctionReference(module, name)
    return target


def _load_function(target: Any) -> Any:
    if isinstance(target, FunctionReference):
        return getattr(importlib.import_module(target.module), target.name)
    return target
