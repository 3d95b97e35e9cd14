"""Where modules ask for their own mode: flags that a graph can read, and decisions that it cannot.

A trace sees `self.training` only by what comes of it, so the two runs of every module, in train and
in eval mode, are compared. A difference goes on into everything behind it: each run is looked at
for itself. Taking what the module was given for the same, it must take the same steps on the same
values and return the same. Where it does, but for

1. an argument that is `True` in train and `False` in eval mode, as in `F.dropout(x, p,
   self.training)`, the argument becomes a read of the module's flag;
2. a buffer that counts the steps of training, as BatchNorm's `num_batches_tracked`, the flag is
   what is added in train mode.

Any other difference is a decision that each mode's graph has taken already, for the mode in which
the module was then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import fx
from torch.fx.node import map_aggregate, map_arg

from fxscale.modes import EVAL, TRAIN
from fxscale.passes.calls import ModuleCall
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import module_path

OwnModes = Mapping[bool, Mapping[str, bool]]
Nodes = Mapping[fx.Node, fx.Node]
Pair = tuple[fx.Node, fx.Node]
"""A node of the trace in train mode and one in eval mode."""


@dataclass(frozen=True)
class TrainingFlags:
    """Nodes whose arguments tell the mode, and modules that decide by theirs.

    `flags` are pairs that differ by a flag, `counters` the nodes of train mode that count; where
    both graphs read them, their module may have another mode than the network. `deciding[mode]` are
    paths of modules that must be in the mode in which that graph was traced.
    """

    flags: Sequence[Pair]
    counters: Sequence[fx.Node]
    deciding: Mapping[bool, tuple[str, ...]]

    def read(self) -> None:
        """Make the graphs read the flags."""
        for train, evaluation in self.flags:
            path = module_path(train)
            given = (train.args, train.kwargs)
            flag = _flag(train, path, value=True)
            train.args, train.kwargs = _with_flag(given, (evaluation.args, evaluation.kwargs), flag)
            flag = _flag(evaluation, path, value=False)
            evaluation.args, evaluation.kwargs = _with_flag(
                (evaluation.args, evaluation.kwargs), given, flag
            )
        for node in self.counters:
            node.args = (node.args[0], _flag(node, module_path(node), value=True))


def find_training_flags(
    calls: Mapping[bool, Sequence[ModuleCall]], own_modes: OwnModes
) -> TrainingFlags:
    """Compare the runs of every module; `own_modes` is that of `fxscale.modes.Modes`.

    What a module does in the mode in which the trace has not seen it is unknown: one that only one
    mode calls, or that stays in one mode when the network's changes, counts as deciding.
    """
    runs = {mode: _by_path(calls[mode]) for mode in (TRAIN, EVAL)}
    flags: list[Pair] = []
    counters: list[fx.Node] = []
    deciding: dict[bool, list[str]] = {TRAIN: [], EVAL: []}
    for path in dict.fromkeys([*runs[TRAIN], *runs[EVAL]]):
        decides = own_modes[TRAIN].get(path, TRAIN) == own_modes[EVAL].get(path, EVAL)
        counts = False
        for train, evaluation in zip_longest(runs[TRAIN][path], runs[EVAL][path]):
            counted = [] if train is None else _counters(train)
            seen = train is not None and evaluation is not None
            pairs = _compare(train, evaluation, counted) if seen else None
            decides |= pairs is None
            counts |= bool(counted)
            flags += pairs or []
            counters += counted
        if path and decides:
            deciding[TRAIN].append(path)
        if path and (decides or counts):
            deciding[EVAL].append(path)
    return TrainingFlags(flags, counters, {mode: tuple(deciding[mode]) for mode in (TRAIN, EVAL)})


def _by_path(calls: Sequence[ModuleCall]) -> defaultdict[str, list[ModuleCall]]:
    found: defaultdict[str, list[ModuleCall]] = defaultdict(list)
    for call in calls:
        found[call.path].append(call)
    return found


def _compare(
    train: ModuleCall, evaluation: ModuleCall, counters: Sequence[fx.Node]
) -> list[Pair] | None:
    """The pairs of nodes that differ by a flag; `None` where the runs differ by more.

    `counters` are the nodes of train mode that count.
    """
    # A value that is no tensor, such as the caller's mode, may be why this run does what it does.
    if _skeleton(train.inputs) != _skeleton(evaluation.inputs):
        return None
    flagged = []
    same = _pairs(train.inputs, evaluation.inputs)
    counting = {id(node) for counter in counters for node in (counter, counter.args[0])}
    steps = [step for step in train.steps if id(step) not in counting]
    for step, other in zip_longest(steps, evaluation.steps):
        if isinstance(step, fx.Node) and isinstance(other, fx.Node):
            differs = _difference(step, other, same)
            if differs is None:
                return None
            if differs:
                flagged.append((step, other))
            same[step] = other
        elif isinstance(step, ModuleCall) and isinstance(other, ModuleCall):
            if step.path != other.path or _mapped(step.inputs, same) != repr(other.inputs):
                return None
            same |= _pairs(step.outputs, other.outputs)
        else:
            return None
    return flagged if _mapped(train.outputs, same) == repr(evaluation.outputs) else None


def _difference(train: fx.Node, evaluation: fx.Node, same: Nodes) -> bool | None:
    """Whether two nodes differ by a flag; `None` where they differ by more."""
    if (train.op, train.target) != (evaluation.op, evaluation.target):
        return None
    given, other = (train.args, train.kwargs), (evaluation.args, evaluation.kwargs)
    if _mapped(_without_booleans(given), same) != repr(_without_booleans(other)):
        return None
    pairs = {(a, b) for a, b in zip(_leaves(given), _leaves(other), strict=True) if type(a) is bool}
    return None if (False, True) in pairs else (True, False) in pairs


def _counters(call: ModuleCall) -> list[fx.Node]:
    """Additions of 1 to an integer buffer, in place, that nothing else reads."""
    return [
        step
        for step in call.steps
        if isinstance(step, fx.Node)
        and (step.op, step.target) == ("call_method", "add_")
        and not step.users
        and isinstance(buffer := step.args[0], fx.Node)
        and buffer.op == "get_attr"
        and list(buffer.users) == [step]
        and type(step.args[1]) is int
        and step.args[1] == 1
        and not step.kwargs
        and not buffer.meta[VALUE].is_floating_point()
    ]


def _mapped(value: Any, same: Nodes) -> str:
    """A value in writing, with the node of eval mode that each of its nodes is the same as."""
    return repr(map_arg(value, lambda node: same.get(node, "?")))


def _skeleton(value: Any) -> str:
    return repr(map_arg(value, lambda node: "node"))


def _without_booleans(value: Any) -> Any:
    return map_aggregate(value, lambda leaf: "<flag>" if type(leaf) is bool else leaf)


def _pairs(train: Any, evaluation: Any) -> dict[fx.Node, fx.Node]:
    nodes = (
        [leaf for leaf in _leaves(v) if isinstance(leaf, fx.Node)] for v in (train, evaluation)
    )
    return dict(zip(*nodes, strict=False))


def _leaves(value: Any) -> list[Any]:
    """Everything inside lists, tuples, tables and slices, in order."""
    found: list[Any] = []
    map_aggregate(value, found.append)
    return found


def _flag(node: fx.Node, path: str, *, value: bool) -> fx.Node:
    """A read of the mode of the module at `path`, in front of `node`."""
    with node.graph.inserting_before(node):
        flag = node.graph.create_node(
            "get_attr", f"{path}.training".lstrip("."), name=f"{path.replace('.', '_')}_training"
        )
    flag.meta[VALUE] = value
    flag.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    return flag


def _with_flag(own: Any, other: Any, flag: fx.Node) -> Any:
    """A node's own arguments, with the flag for the booleans that the other mode's differ in."""
    others = iter(_leaves(other))

    def choose(leaf: Any) -> Any:
        differs = leaf is not next(others)
        return flag if differs and type(leaf) is bool else leaf

    return map_aggregate(own, choose)
