"""Numbers in a model's arithmetic on sizes that stand for a length which scales.

Where `x.view(B, H // 7, 7, ...)` makes windows of 5 out of windows of 7, the 7 in `H // 7`, in
`(7 - H % 7) % 7` and in `if H == 7` is the same window, and must become 5 with it. Two rules:

1. a number that a length is compared with or divided by, and that it equals in the target, is that
   length (a map that is one window);
2. a number in arithmetic on the length of a split axis that equals a part which the model names is
   that part.

What tensors are made of does not hang on these rules: views and pads get the lengths that were
solved for, and verify checks every shape. They keep the branches that a model takes by its sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import fx

from fxscale.passes.axes import (
    Annotation,
    Axis,
    Dim,
    Event,
    Extent,
    Split,
    Substitution,
    Window,
    is_spatial,
    target_length,
)
from fxscale.passes.origins import holds_tensor

_HELD_AGAINST: frozenset[Any] = frozenset(
    (
        operator.eq,
        operator.ne,
        operator.lt,
        operator.le,
        operator.gt,
        operator.ge,
        operator.mod,
        operator.floordiv,
    )
)
_ARITHMETIC: frozenset[Any] = _HELD_AGAINST | {
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    max,
    min,
}


def substitute_literals(
    nodes: Iterable[fx.Node], annotations: Mapping[fx.Node, Annotation], events: Iterable[Event]
) -> Iterator[Substitution]:
    """The numbers to replace, in the order of the graph."""
    named = _named_parts(list(events))
    measured: dict[fx.Node, frozenset[Axis]] = {}
    for node in nodes:
        if holds_tensor(node):
            continue
        extent = annotations.get(node)
        own = extent.dim if isinstance(extent, Extent) else ()
        sources = (measured.get(source, frozenset()) for source in node.all_input_nodes)
        measured[node] = frozenset(own).union(*sources)
        if node.op != "call_function" or node.target not in _ARITHMETIC:
            continue
        for index, literal in enumerate(node.args):
            if type(literal) is int:
                dim = _same_length(node, literal, annotations) or _part(
                    literal, measured[node], named
                )
                if dim:
                    yield Substitution(node, index, dim)


def _named_parts(events: list[Event]) -> Callable[[Axis], Iterator[Axis]]:
    """The named parts of an axis, also of what an explicit pad makes of it."""
    parts: dict[Axis, list[Axis]] = {}
    padded: dict[Axis, list[Axis]] = {}
    for event in events:
        if isinstance(event, Split):
            named = zip(event.parts, event.given, strict=True)
            parts.setdefault(event.source, []).extend(p for p, g in named if g and p.spatial)
        elif isinstance(event, Window) and event.adjustable == "pad":
            padded.setdefault(event.source, []).append(event.out)

    def of(axis: Axis) -> Iterator[Axis]:
        yield from parts.get(axis, ())
        for out in padded.get(axis, ()):
            yield from of(out)

    return of


def _same_length(
    node: fx.Node, literal: int, annotations: Mapping[fx.Node, Annotation]
) -> Dim | None:
    if node.target not in _HELD_AGAINST:
        return None
    for source in node.all_input_nodes:
        extent = annotations.get(source)
        if not isinstance(extent, Extent) or not is_spatial(extent.dim):
            continue
        if target_length(extent.dim) == literal:
            return extent.dim
    return None


def _part(
    literal: int, axes: Iterable[Axis], named: Callable[[Axis], Iterator[Axis]]
) -> Dim | None:
    found = [part for axis in axes for part in named(axis) if part.target == literal]
    return (found[0],) if found else None
