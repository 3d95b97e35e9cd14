"""Two traces, of train and of eval mode, laid over each other.

A node that computes the same in both modes (same operator, same arguments) stands once; any other
belongs to one mode only.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxscale.modes import EVAL, TRAIN


@dataclass(frozen=True)
class MergedGraph:
    """One graph for both modes, without output node.

    `moved[mode]` says where the nodes of a mode's own trace are now, in its own order;
    `outputs[mode]` is what it returns.
    """

    graph: fx.Graph
    moved: Mapping[bool, Mapping[fx.Node, fx.Node]]
    outputs: Mapping[bool, Any]


def merge(graphs: Mapping[bool, fx.Graph]) -> MergedGraph:
    """The graphs of both modes as one."""
    union = fx.Graph()
    moved: dict[bool, dict[fx.Node, fx.Node]] = {TRAIN: {}, EVAL: {}}
    outputs: dict[bool, Any] = {}
    waiting: defaultdict[object, deque[fx.Node]] = defaultdict(deque)
    for mode in (TRAIN, EVAL):
        load = moved[mode].__getitem__
        for node in graphs[mode].nodes:
            arguments = fx.node.map_arg((node.args, node.kwargs), load)
            if node.op == "output":
                outputs[mode] = arguments[0][0]
                continue
            twins = waiting[node.op, node.target, repr(arguments)]
            if mode == EVAL and twins:
                moved[EVAL][node] = twins.popleft()
                continue
            moved[mode][node] = union.node_copy(node, load)
            if mode == TRAIN:
                twins.append(moved[TRAIN][node])
    return MergedGraph(union, moved, outputs)
