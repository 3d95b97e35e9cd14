"""The graph of spatial axes: how each comes from others, and the chains between anchors.

A node is an axis, an edge an event that leads from one axis to another. An anchor is an axis at
which paths meet (a join), part (several consumers) or end; between anchors run chains of windows,
along which lengths and paddings can be chosen freely.
"""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx

from fxscale.passes.axes import Axis, Event, Flattening, Join, Merge, Refit, Split, Window

Chain = tuple[Window | Refit, ...]
_REGROUPING = Split | Merge | Flattening


class AxisGraph:
    """The axes of a network as a `networkx.MultiDiGraph`; edges carry their event."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.graph: nx.MultiDiGraph[Axis] = nx.MultiDiGraph()
        for number, event in enumerate(events):
            for source in _sources(event):
                for out in event.parts if isinstance(event, Split) else (event.out,):
                    # A key of our own: networkx would look for one that is free at every edge.
                    self.graph.add_edge(source, out, key=number, event=event)

    def consumers(self, axis: Axis) -> list[Event]:
        """The events that read an axis."""
        if axis not in self.graph:
            return []
        edges = self.graph.out_edges(axis, data="event")
        return list(dict.fromkeys(event for _, _, event in edges))

    def joins(self, axis: Axis) -> bool:
        """Whether the axis goes into one join and nowhere else."""
        consumers = self.consumers(axis)
        return len(consumers) == 1 and isinstance(consumers[0], Join)

    def parts(self, axis: Axis) -> bool:
        """Whether several events read the axis, or one whose length it decides."""
        consumers = self.consumers(axis)
        return len(consumers) > 1 or any(isinstance(e, _REGROUPING) for e in consumers)

    def chain(self, first: Window | Refit) -> Chain:
        """The windows from `first` to the next anchor."""
        chain = [first]
        while True:
            consumers = self.consumers(chain[-1].out)
            if len(consumers) != 1 or isinstance(consumers[0], Join | _REGROUPING):
                return tuple(chain)
            chain.append(consumers[0])


def _sources(event: Event) -> Iterable[Axis]:
    if isinstance(event, Join):
        return dict.fromkeys(operand.axis for operand in event.operands)
    if isinstance(event, Merge | Flattening):
        return dict.fromkeys(event.parts)
    return (event.source,)
