"""Two traces, of train and of eval mode, laid over each other.

1. a node that computes the same in both modes (same operator, same arguments) stands once;
2. an argument that is `True` in train mode and `False` in eval mode is the `training` flag of the
   module at hand, and becomes a read of that flag, as in `F.dropout(x, p, self.training)`;
3. any other difference (auxiliary heads, branches on `self.training`) leaves nodes that belong to
   one mode only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxscale.modes import EVAL, TRAIN
from fxscale.passes.refusal import module_path
from fxscale.passes.tracer import VALUE


@dataclass(frozen=True)
class MergedGraph:
    """One graph for both modes, without output node.

    `moved[mode]` says where the nodes of a mode's own trace are now, `order[mode]` which nodes the
    mode runs, in its own order, and `outputs[mode]` what it returns.
    """

    graph: fx.Graph
    moved: Mapping[bool, Mapping[fx.Node, fx.Node]]
    order: Mapping[bool, tuple[fx.Node, ...]]
    outputs: Mapping[bool, Any]


def merge(model: nn.Module, graphs: Mapping[bool, fx.Graph]) -> MergedGraph:
    """The graphs of both modes as one; `model` is the module that was traced."""
    union = fx.Graph()
    moved: dict[bool, dict[fx.Node, fx.Node]] = {TRAIN: {}, EVAL: {}}
    outputs: dict[bool, Any] = {}
    candidates: dict[object, list[fx.Node]] = defaultdict(list)
    train_flags: dict[fx.Node, fx.Node] = {}
    for node in graphs[TRAIN].nodes:
        if node.op == "output":
            outputs[TRAIN] = fx.node.map_arg(node.args[0], moved[TRAIN].__getitem__)
            continue
        new = union.node_copy(node, moved[TRAIN].__getitem__)
        moved[TRAIN][node] = new
        candidates[_signature(new.op, new.target, (new.args, new.kwargs))].append(new)
    eval_order: list[fx.Node] = []
    for node in graphs[EVAL].nodes:
        load = moved[EVAL].__getitem__
        if node.op == "output":
            outputs[EVAL] = fx.node.map_arg(node.args[0], load)
            continue
        arguments = fx.node.map_arg((node.args, node.kwargs), load)
        twin = _take_twin(candidates[_signature(node.op, node.target, arguments)], arguments)
        if twin is None:
            twin = union.node_copy(node, load)
        elif _flags(twin, arguments):
            train_flags[twin] = _read_training(union, model, twin, arguments)
            eval_order.append(train_flags[twin])
        moved[EVAL][node] = twin
        eval_order.append(twin)
    train_order: list[fx.Node] = []
    for new in moved[TRAIN].values():
        if new in train_flags:
            train_order.append(train_flags[new])
        train_order.append(new)
    order = {TRAIN: tuple(train_order), EVAL: tuple(eval_order)}
    return MergedGraph(union, moved, order, outputs)


def _signature(op: str, target: Any, arguments: Any) -> object:
    """A key under which two nodes meet if they are equal but for the value of booleans."""
    return (op, target, repr(_without_booleans(arguments)))


def _without_booleans(argument: Any) -> Any:
    if isinstance(argument, bool):
        return "bool"
    if isinstance(argument, fx.Node):
        return f"%{argument.name}"
    if isinstance(argument, tuple | list):
        return [_without_booleans(item) for item in argument]
    if isinstance(argument, dict):
        return {key: _without_booleans(item) for key, item in argument.items()}
    return argument


def _take_twin(candidates: list[fx.Node], arguments: Any) -> fx.Node | None:
    for index, candidate in enumerate(candidates):
        pairs = zip(
            _booleans((candidate.args, candidate.kwargs)), _booleans(arguments), strict=True
        )
        if all(train == evaluation or train for train, evaluation in pairs):
            return candidates.pop(index)
    return None


def _booleans(argument: Any) -> Iterator[bool]:
    if isinstance(argument, bool):
        yield argument
    elif isinstance(argument, tuple | list):
        for item in argument:
            yield from _booleans(item)
    elif isinstance(argument, dict):
        for item in argument.values():
            yield from _booleans(item)


def _flags(node: fx.Node, arguments: Any) -> bool:
    return list(_booleans((node.args, node.kwargs))) != list(_booleans(arguments))


def _read_training(union: fx.Graph, model: nn.Module, node: fx.Node, arguments: Any) -> fx.Node:
    """Replace what differs between the modes by a read of the module's `training` flag."""
    path = module_path(node)
    target = f"{path}.training" if path else "training"
    with union.inserting_before(node):
        flag = union.create_node("get_attr", target, name=f"{path.replace('.', '_')}_training")
    flag.meta[VALUE] = True
    flag.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    node.args = _replace_flags(node.args, arguments[0], flag)
    node.kwargs = _replace_flags(node.kwargs, arguments[1], flag)
    return flag


def _replace_flags(train: Any, evaluation: Any, flag: fx.Node) -> Any:
    if isinstance(train, bool) and train != evaluation:
        return flag
    if isinstance(train, tuple | list):
        return type(train)(
            [_replace_flags(a, b, flag) for a, b in zip(train, evaluation, strict=True)]
        )
    if isinstance(train, dict):
        return {key: _replace_flags(train[key], evaluation[key], flag) for key in train}
    return train
