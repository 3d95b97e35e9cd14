"""Tables that are read at places computed from sizes, such as relative position embeddings.

`table[rows - columns + h - 1]` with `rows = torch.arange(h)` would read other entries on a smaller
map than those that mean the same distance on the image. What was looked up is therefore a constant
of the target (`passes/origins.py`): the table is read at the target's size, and the result resized
where it meets a feature map.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Lookup
from fxscale.passes.in_place import changes_in_place
from fxscale.passes.origins import Origin, holds_tensor
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import refusal

_INDEX = {operator.getitem: 1, torch.index_select: 2, "index_select": 2, F.embedding: 0}
"""Which argument of a lookup is the index."""


def lookup_at(
    node: fx.Node, module: nn.Module | None, origins: Mapping[fx.Node, Origin]
) -> Lookup | None:
    """What `node` looks up in a constant, if it does so at places computed from sizes.

    Raises `UnsupportedModelError` where the places are changed behind the graph's back.
    """
    place = 0 if isinstance(module, nn.Embedding) else _INDEX.get(node.target)
    if place is None or len(node.args) <= place:
        return None
    others = [source for source in node.all_input_nodes if holds_tensor(source)]
    index = _nodes(node.args[place])
    tables = [source for source in others if source not in index]
    sized = [n for n in index if holds_tensor(n) and origins[n] is Origin.SIZE]
    if (
        not sized
        or any(origins[n] is not Origin.CONSTANT for n in tables)
        or _image(index, origins)
    ):
        return None
    cone = _cone(sized, origins)
    _refuse_changes(node, cone, origins)
    return Lookup(node, cone)


def freeze_lookups(graph: fx.Graph, lookups: Iterable[Lookup]) -> None:
    """Compute the places of every lookup from the target's sizes."""
    for lookup in lookups:
        copies: dict[fx.Node, Any] = {}

        def frozen(source: fx.Node, copies: Mapping[fx.Node, Any] = copies) -> Any:
            return copies.get(source, _number(source))

        for node in lookup.cone:
            with graph.inserting_before(lookup.node):
                copies[node] = graph.node_copy(node)
            copies[node].args = fx.node.map_arg(node.args, frozen)
            copies[node].kwargs = fx.node.map_arg(node.kwargs, frozen)
        for source, copied in copies.items():
            if source in lookup.node.all_input_nodes:
                lookup.node.replace_input_with(source, copied)


def _image(nodes: Iterable[fx.Node], origins: Mapping[fx.Node, Origin]) -> bool:
    return any(holds_tensor(n) and origins[n] is Origin.IMAGE for n in nodes)


def _nodes(argument: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(argument, found.append)
    return found


def _number(source: fx.Node) -> Any:
    """A size, or several, at the target's size; anything else (a device, a constant) as it is."""
    value = source.meta[VALUE]
    numbers = value if isinstance(value, tuple | list) else (value,)
    return value if all(isinstance(n, int | float) for n in numbers) else source


def _cone(sized: Sequence[fx.Node], origins: Mapping[fx.Node, Origin]) -> tuple[fx.Node, ...]:
    """The tensors computed from sizes that an index is made of, in the order of the graph."""
    cone: dict[fx.Node, None] = {}
    pending = list(sized)
    while pending:
        node = pending.pop()
        if node not in cone:
            cone[node] = None
            pending += [
                n for n in node.all_input_nodes if holds_tensor(n) and origins[n] is Origin.SIZE
            ]
    return tuple(node for node in origins if node in cone)


def _refuse_changes(
    lookup: fx.Node, cone: Sequence[fx.Node], origins: Mapping[fx.Node, Origin]
) -> None:
    """What is computed in place of a copied tensor would be missing from its copy."""
    seen = set(cone)
    pending = list(_users(cone, origins))
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending += _users([node], origins)
        if changes_in_place(node):
            raise refusal(
                lookup,
                f"looks up a table at places that {node.name!r} changes in place",
                remedy="compute the places without in-place operators",
            )


def _users(nodes: Iterable[fx.Node], origins: Mapping[fx.Node, Origin]) -> Iterator[fx.Node]:
    """Operators on these tensors, before the lookup, that see no image."""
    for node in nodes:
        yield from (u for u in node.users if origins.get(u) in (Origin.SIZE, Origin.CONSTANT))
