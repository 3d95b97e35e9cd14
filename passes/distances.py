"""Tables of relative positions: one entry for every distance between a row and a column.

Where views read relative positions (`passes/relative_positions.py`), the entries of the source are
`Distances`. They come from a table, which is a constant of the target: it keeps its size, and the
pre-train network resizes it over the distances where it is multiplied with the queries. Between
which pixels the distances lie shows only behind the table, so that its dimension is noted where it
shows, and the annotate pass begins anew (`passes/laid_constants.py`).

Where sizes change, the pre-train network reads in one operator (`fxscale/distances.py`): the views
of the target need not have any sense at another size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import fx

from fxscale.distances import read_distances
from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import (
    AnnotatedNetwork,
    Axis,
    Dim,
    Lengths,
    Shape,
    is_spatial,
    pretrain_length,
    target_length,
)
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import refusal
from fxscale.passes.relative_positions import RelativeRead

if TYPE_CHECKING:
    from fxscale.passes.annotate import Annotator


@dataclass(frozen=True, eq=False)
class Distances(Axis):
    """The distances between pixels of two maps of one pitch, as a table of positions holds them.

    Row `i` and column `j` read entry `j - i + first`.
    """

    rows: Axis = field(kw_only=True)
    columns: Axis = field(kw_only=True)
    first: int = field(kw_only=True)

    def length(self, lengths: Lengths) -> int:
        """All distances, and as many entries that nobody reads as in the target."""
        return self.target - self.fewer(lengths) - _fewer(self.columns, lengths)

    def fewer(self, lengths: Lengths) -> int:
        """How many distances in front are not there in the pre-train network."""
        return _fewer(self.rows, lengths)

    def maps(self) -> Iterator[Axis]:
        return (axis for end in (self.rows, self.columns) for axis in end.maps())

    def __repr__(self) -> str:
        return f"{self.target} distances"


def _fewer(axis: Axis, lengths: Lengths) -> int:
    return axis.target - axis.length(lengths)


def holds_distances(dims: Sequence[Dim]) -> bool:
    return any(isinstance(axis, Distances) for dim in dims for axis in dim)


def annotate_read(annotator: Annotator, read: RelativeRead) -> Shape:
    """The axes of what is read; raises `UnsupportedModelError` where it is between no pixels."""
    source = annotator.annotations[read.source]
    assert isinstance(source, Shape)
    *others, rows, entries = source.dims
    place = (read.node, len(others) + 1)
    columns = annotator.constants.dim_at(place, read.node.meta[VALUE].shape[-1])
    if is_spatial(rows) and not is_spatial(columns):
        annotator.open_reads.append(read)  # until something is laid over the columns
    elif (
        is_spatial(columns)
        and not _between(entries, rows, columns, read.first)
        and not annotator.constants.lay_distances(entries, rows, place, read.first)
    ):
        raise _refused(read)
    return Shape((*others, rows, columns))


def _between(entries: Dim, rows: Dim, columns: Dim, first: int) -> bool:
    axis = entries[0] if len(entries) == 1 else None
    if not isinstance(axis, Distances):
        return False
    return ((axis.rows,), (axis.columns,), axis.first) == (rows, columns, first)


def refuse_open(reads: Sequence[RelativeRead]) -> None:
    """Refuse reads over whose columns no walk has found a feature map."""
    for read in reads:
        raise _refused(read)


def _refused(read: RelativeRead) -> UnsupportedModelError:
    return refusal(
        read.node,
        f"{read.node.name!r} reads relative positions, but not the distances between the pixels of "
        "two feature maps out of a table",
        remedy="multiply the pixels of a map with a table of positions and add the product to "
        "logits over the same pixels, or register a handler for the module",
    )


def insert_reads(network: AnnotatedNetwork, lengths: Lengths) -> frozenset[fx.Node]:
    """Read in one operator where sizes change; returns the nodes that are gone."""
    gone: set[fx.Node] = set()
    for read in network.reads:
        dims = network.annotations[read.source].dims
        rows, columns = network.annotations[read.node].dims[-2:]
        if all(pretrain_length(dim, lengths) == target_length(dim) for dim in (*dims, columns)):
            continue
        fewer = target_length(rows) - pretrain_length(rows, lengths)
        node = read.node
        node.op, node.target, node.kwargs = "call_function", read_distances, {}
        node.args = (read.source, pretrain_length(columns, lengths), read.first - fewer)
        gone.update(read.steps)
    for graph in {node.graph for node in gone}:
        for step in reversed(graph.nodes):
            if step in gone:
                graph.erase_node(step)
    return frozenset(gone)
