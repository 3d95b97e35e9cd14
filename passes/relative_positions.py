"""Relative positions that views make absolute: `result[i, j] = source[i, j - i + first]`.

Attention with relative positions multiplies its queries with a table of `2 * w - 1` distances. Row
`i` of the product needs other entries of it than row 0, all of them `i` further left. Models get at
them by a trick: a pad, a flattening, another pad, a view with rows that are one entry longer, and a
slice. No single one of these operators means anything to a feature map.

What they mean together is found by running them on numbers: on a tensor of the target's size that
holds the place of every entry. Where each entry of the result comes from the place that the formula
gives, they are one `RelativeRead`, whatever they are; `passes/distances.py` has what comes of it.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxscale.passes.in_place import changes_in_place
from fxscale.passes.origins import Origin, origin_of
from fxscale.passes.proxies import VALUE

_JOINS: frozenset[Any] = frozenset((torch.cat, torch.concat, torch.concatenate))
_PADS: frozenset[Any] = _JOINS | {F.pad, torch._C._nn.pad}
_VIEWS: frozenset[Any] = frozenset(
    (torch.flatten, torch.reshape, torch.unflatten, "flatten", "view", "reshape", "unflatten")
)
_MOVING: frozenset[Any] = (
    _PADS | _VIEWS | {operator.getitem, torch.narrow, "narrow", "contiguous", "squeeze"}
)
_FROM = 1000.0
"""Places are numbered from here, so that none is mistaken for what a pad fills in."""


@dataclass(frozen=True)
class RelativeRead:
    """`node` computes `result[..., i, j] = source[..., i, j - i + first]` by way of `steps`.

    Nobody else uses what the steps compute.
    """

    node: fx.Node
    source: fx.Node
    steps: tuple[fx.Node, ...]
    first: int


def relative_reads(graph: fx.Graph) -> dict[fx.Node, RelativeRead]:
    """All of a graph, by their last node."""
    origins: dict[fx.Node, Origin] = {}
    found: dict[fx.Node, RelativeRead] = {}
    for node in graph.nodes:
        origins[node] = origin_of(node, origins)
        read = _read_at(node, origins, found)
        if read is not None:
            found[node] = read
    return found


def _read_at(
    node: fx.Node, origins: Mapping[fx.Node, Origin], known: Container[fx.Node]
) -> RelativeRead | None:
    """What is read at a node, from as far back as it is the same."""
    steps = [node]
    fillers: list[fx.Node] = []
    found = None
    while (source := _moved(steps[0], origins)) is not None and source not in known:
        first = _first(source, steps)
        if first is not None and not any(map(changes_in_place, source.users)):
            found = RelativeRead(node, source, (*steps[:-1], *fillers), first)
        elif found is not None:
            break
        others = [user for user in source.users if user is not steps[0]]
        if not all(_fills(user, steps, origins) for user in others):
            break
        fillers += others
        steps.insert(0, source)
    return found


def _fills(node: fx.Node, steps: Sequence[fx.Node], origins: Mapping[fx.Node, Origin]) -> bool:
    """Whether a tensor is put between entries by these steps and used for nothing else."""
    filled = isinstance(node.meta[VALUE], Tensor) and origins.get(node) is not Origin.IMAGE
    return filled and set(node.users) <= set(steps)


def _moved(node: fx.Node, origins: Mapping[fx.Node, Origin]) -> fx.Node | None:
    """The tensor computed from images whose entries `node` moves, and does nothing else."""
    if node.op not in ("call_function", "call_method") or node.target not in _MOVING:
        return None
    sources = [n for n in node.all_input_nodes if isinstance(n.meta[VALUE], Tensor)]
    moved = [n for n in sources if origins[n] is Origin.IMAGE]
    if len(moved) != 1 or (len(sources) > 1 and node.target not in _JOINS):
        return None
    return moved[0] if isinstance(node.meta[VALUE], Tensor) else None


def _first(source: fx.Node, steps: Sequence[fx.Node]) -> int | None:
    """The entry that row 0 reads in column 0, if these steps read relative positions."""
    before, after = source.meta[VALUE].shape, steps[-1].meta[VALUE].shape
    if len(before) < 2 or before[:-1] != after[:-1] or min(*before[-2:], after[-1]) < 2:
        return None
    rows, columns, entries = before[-2], after[-1], before[-1]
    used = {step.target for step in steps}
    if entries < rows + columns - 1 or not used & _PADS or not used & _VIEWS:
        return None
    numbers = torch.arange(before.numel(), dtype=torch.float64, device="cpu") + _FROM
    numbers = numbers.reshape(before)
    result = _run(steps, source, numbers)
    first = int(result.flatten()[0] - _FROM)
    if not rows - 1 <= first <= entries - columns:
        return None
    places = torch.arange(columns) - torch.arange(rows)[:, None] + first
    expected = numbers.gather(-1, places.expand(after))
    return first if torch.equal(result, expected) else None


def _run(steps: Sequence[fx.Node], source: fx.Node, numbers: Tensor) -> Tensor:
    values = {source: numbers}

    def load(node: fx.Node) -> Any:
        value = node.meta[VALUE]
        if isinstance(value, Tensor):
            return values.get(node, torch.zeros(value.shape, dtype=numbers.dtype))
        return value

    for step in steps:
        args, kwargs = fx.node.map_arg((step.args, step.kwargs), load)
        function: Any = step.target
        if step.op == "call_method":
            function = getattr(torch.Tensor, function)
        values[step] = function(*args, **kwargs)
    return values[steps[-1]]
