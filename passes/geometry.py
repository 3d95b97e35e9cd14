"""Pass 5, solve geometry: the length of every spatial axis and the padding of every convolution.

The axes form a graph (`axis_graph.py`); the chains between its anchors are solved in the order of
the flow (`chains.py`). Where chains meet, all operands get one length, and of two maps that meet,
one that lies off the other costs by the square of the distance. Equal target lengths get equal
pre-train lengths at all anchors, so that joins which have nothing to do with each other still agree
where they meet later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, inf, prod
from typing import NoReturn

from torch import fx

from fxscale.errors import SizeError, UnsupportedModelError
from fxscale.passes.axes import (
    AnnotatedNetwork,
    Axis,
    Event,
    Flattening,
    Join,
    Lengths,
    Merge,
    Operand,
    Split,
    Statistics,
    Window,
    map_axes,
    pretrain_length,
    target_length,
)
from fxscale.passes.axis_graph import AxisGraph
from fxscale.passes.chains import Candidate, ChainSolver, Ladder, Padding
from fxscale.passes.grids import (
    Grid,
    drift,
    image_grid,
    merged_grid,
    part_grids,
    row_grid,
    target_grids,
)
from fxscale.passes.partition import dividing_sizes, part_lengths
from fxscale.passes.refusal import place, refusal
from fxscale.passes.sites import Sites

ADAPTER_COST = 1.5
MISMATCH_COST = 2.0  # times the distance of the two maps squared
ADAPTED = 4  # so many of an operand's ways are tried with an adapter


@dataclass(frozen=True)
class Adapter:
    """A pad or crop inserted in front of a join, because no padding made the operand fit."""

    join: fx.Node
    operand: fx.Node
    dim: int
    padding: Padding


@dataclass(frozen=True)
class Geometry:
    """The solution: grids of every spatial axis in both networks, and how to get there."""

    target: Mapping[Axis, Grid]
    pretrain: Mapping[Axis, Grid]
    lengths: Mapping[Axis, int]
    paddings: Mapping[Window, Padding]
    adapters: tuple[Adapter, ...]

    def drift(self, axis: Axis) -> float:
        return drift(self.pretrain[axis], self.target[axis])


def solve_geometry(
    network: AnnotatedNetwork,
    kernels: Mapping[str, tuple[int, ...]],
    image_lengths: Sequence[tuple[int, ...]],
) -> Geometry:
    """Solve for all lengths and paddings; `image_lengths` are the pre-train sizes of the inputs.

    Where the solution leaves a normalisation with a single value, another one is tried that keeps
    more of all maps that are normalised over.
    """
    images = {
        axis: image_grid(length)
        for axes, lengths in zip(network.inputs, image_lengths, strict=True)
        for axis, length in zip(axes, lengths, strict=True)
    }
    geometry = _Solver(network, images, kernels).run()
    if not any(_single(over, geometry.lengths) for over in network.statistics):
        return geometry
    dims = (dim for over in network.statistics if over.per_pixel == 1 for dim in over.dims)
    normalised = frozenset(axis for dim in dims for axis in map_axes(dim) if axis.target > 1)
    geometry = _Solver(network, images, kernels, normalised).run()
    check_statistics(network.statistics, geometry.lengths)
    return geometry


def with_kernel_axes(
    geometry: Geometry, sites: Sites, kernels: Mapping[str, tuple[int, ...]]
) -> Geometry:
    """The same solution with the lengths of the kernel axes of computed weights."""
    lengths = dict(geometry.lengths)
    for convolution in sites.convolutions:
        for call in convolution.calls:
            axes = call.computed.axes if call.computed else ()
            sizes = zip(axes, kernels[convolution.weight], strict=bool(axes))
            lengths |= {axis: length for axis, length in sizes if axis is not None}
    return replace(geometry, lengths=lengths)


class _Solver:
    """Walks over the events; `solved` grows by the axes whose grid is final."""

    def __init__(
        self,
        network: AnnotatedNetwork,
        images: Mapping[Axis, Grid],
        kernels: Mapping[str, tuple[int, ...]],
        normalised: frozenset[Axis] = frozenset(),
    ) -> None:
        self.network = network
        self.target = target_grids(network)
        self.solved = dict(images)
        splits = [event for event in network.events if isinstance(event, Split)]
        self.ladder = Ladder(self.target, splits)
        # What the network returns at its images' size is compared with labels of that size.
        returned = {axis.target for axis in network.outputs}
        for axis, grid in images.items():
            if axis.target in returned:
                self.ladder.fix(axis, grid)
        self.chains = ChainSolver(kernels, self.ladder, normalised)
        self.pending: dict[Axis, list[Candidate]] = {}
        self.paddings: dict[Window, Padding] = {}
        self.adapters: list[Adapter] = []

    def run(self) -> Geometry:
        events = self.network.events
        graph = AxisGraph(events)
        done: set[Event] = set()
        for event in events:
            if isinstance(event, Join):
                self._join(event)
            elif isinstance(event, Split):
                self._split(event)
            elif isinstance(event, Merge):
                self._merge(event)
            elif isinstance(event, Flattening):
                self.solved[event.out] = row_grid([self.solved[part] for part in event.parts])
            elif event not in done:
                chain = graph.chain(event)
                done.update(chain)
                candidates = self.chains.solve(chain, self.solved[event.source])
                end = chain[-1].out
                if graph.joins(end):
                    self.pending[end] = candidates
                else:
                    self._settle_end(end, candidates, anchor=graph.parts(end))
        lengths = {axis: grid.length for axis, grid in self.solved.items()}
        return Geometry(self.target, self.solved, lengths, self.paddings, tuple(self.adapters))

    def _settle_end(self, axis: Axis, candidates: Sequence[Candidate], *, anchor: bool) -> None:
        wanted = self.ladder.length(axis, candidates[0].grid)
        if wanted is None and axis in self.network.outputs:
            wanted = round(self.ladder.ideal(axis, candidates[0].grid))
        fitting = [c for c in candidates if c.grid.length == wanted]
        best = min(
            fitting or candidates,
            key=lambda c: c.cost + self.ladder.split_cost(axis, c.grid.length),
        )
        if anchor:
            self.ladder.fix(axis, best.grid)
        self._settle(best)

    def _settle(self, candidate: Candidate) -> None:
        for step in candidate.steps:
            self.solved[step.axis] = step.grid
            if step.window is not None:
                self.paddings[step.window] = step.padding
                self.chains.settle(step.window, step.padding)

    def _join(self, join: Join) -> None:
        operands = list({operand.axis: operand for operand in join.operands}.values())
        choices = [self._choices(operand) for operand in operands]
        lead = max(range(len(operands)), key=lambda i: self.target[operands[i].axis].depth)
        known = self.ladder.length(join.out, choices[lead][0].grid)
        lengths = {known} if known else {c.grid.length for row in choices for c in row}
        if not known and not any(self._can_split(join.out, length) for length in lengths):
            ideal = self.ladder.ideal(operands[lead].axis, choices[lead][0].grid)
            lengths |= self.ladder.divisible_near(join.out, ideal)
        ways = (self._meet(operands, choices, lead, length) for length in sorted(lengths))
        _, _, chosen = min(
            [way for way in ways if way is not None] or self._apart(join),
            key=lambda option: (
                option[0] + self.ladder.split_cost(join.out, option[2][lead].grid.length),
                option[1],
            ),
        )
        for operand, candidate in zip(operands, chosen, strict=True):
            if operand.axis not in self.solved:
                self._settle(candidate)
            if candidate.adapter is not None:
                self._adapt(join, operand.axis, candidate.adapter)
        self.solved[join.out] = chosen[lead].grid
        self.ladder.fix(join.out, chosen[lead].grid)

    def _can_split(self, axis: Axis, length: int) -> bool:
        return self.ladder.split_cost(axis, length) < inf

    def _split(self, split: Split) -> None:
        grid = self.solved[split.source]
        lengths = part_lengths(split, grid.length)
        if lengths is None:
            raise self._indivisible(split, grid)
        self.solved |= part_grids(grid, split, lengths)
        for part in split.parts:
            if part.spatial:
                self.ladder.fix(part, self.solved[part])

    def _merge(self, merge: Merge) -> None:
        length = prod(self.solved[p].length if p.spatial else p.target for p in merge.parts)
        self.solved[merge.out] = merged_grid(self.solved[merge.source], length)

    def _indivisible(self, split: Split, grid: Grid) -> UnsupportedModelError:
        parts = " x ".join(str(part.target) for part in split.parts)
        kept = [part.target for part in split.parts if not part.spatial]
        image = self.target[split.source].image
        sizes = dividing_sizes(self.network.events, self.target, image)
        near = sorted(sizes, key=lambda size: abs(size - grid.image))[:4]
        advice = f"choose an input_size that divides: {', '.join(map(str, sorted(near)))}"
        return refusal(
            split.node,
            f"a map of {split.source.target} pixels is viewed as {parts}; in the pre-train network "
            f"it has {grid.length} pixels, which do not divide"
            + (f" with {prod(kept)} kept" if kept else ""),
            remedy=advice if near else "no smaller input_size divides; replace the view",
        )

    def _choices(self, operand: Operand) -> list[Candidate]:
        if operand.axis in self.solved:
            return [Candidate(0.0, self.solved[operand.axis])]
        return self.pending[operand.axis]

    def _meet(
        self,
        operands: Sequence[Operand],
        choices: Sequence[Sequence[Candidate]],
        lead: int,
        length: int,
    ) -> tuple[float, float, list[Candidate]] | None:
        """The cheapest way for all operands to arrive with this length, near the leading one.

        Returns the cost, how far the length lies from the ideal one, and a candidate per operand;
        `None` where an operand arrives with another length and cannot be padded.
        """
        rows = [
            [(c, drift(c.grid, self.target[operand.axis])) for c in self._fit(operand, row, length)]
            for operand, row in zip(operands, choices, strict=True)
        ]
        if not all(rows):
            return None
        best: tuple[float, list[Candidate]] | None = None
        for leader, leader_drift in rows[lead]:
            cost, chosen = 0.0, []
            for row in rows:
                ways = [(leader, leader_drift)] if row is rows[lead] else row
                price, index = min(
                    (candidate.cost + MISMATCH_COST * (off - leader_drift) ** 2, i)
                    for i, (candidate, off) in enumerate(ways)
                )
                cost += price
                chosen.append(ways[index][0])
            if best is None or cost < best[0] - 1e-9:
                best = (cost, chosen)
        assert best is not None
        ideal = self.ladder.ideal(operands[lead].axis, best[1][lead].grid)
        return best[0], abs(length - ideal), best[1]

    def _apart(self, join: Join) -> NoReturn:
        raise refusal(
            join.node,
            "two flattened feature maps meet that have different sizes in the pre-train network",
            remedy="join them before flattening, or try another input_size",
        )

    def _fit(self, operand: Operand, row: Sequence[Candidate], length: int) -> list[Candidate]:
        """Candidates of the wanted length; where there are none, the best ones adapted to it."""
        fitting = [c for c in row if c.grid.length == length]
        if fitting or operand.dim is None:
            return fitting
        adapted = []
        for candidate in row[:ADAPTED]:
            missing = length - candidate.grid.length
            for before in {floor(missing / 2), ceil(missing / 2)}:
                padding = (before, missing - before)
                grid = candidate.grid.padded(*padding)
                map_cost = self.chains.map_cost(operand.axis, grid, last=True)
                cost = candidate.cost + ADAPTER_COST + map_cost
                adapted.append(replace(candidate, cost=cost, grid=grid, adapter=padding))
        return adapted

    def _adapt(self, join: Join, axis: Axis, padding: Padding) -> None:
        self.adapters += [
            Adapter(join.node, operand.node, operand.dim, padding)
            for operand in join.operands
            if operand.axis is axis and operand.dim is not None
        ]


def check_statistics(statistics: Sequence[Statistics], lengths: Lengths) -> None:
    """A normalisation that sees many values in the target must not be left with a single one.

    Raises `SizeError`: torch refuses such a batch of one sample, and its statistics say nothing.
    """
    for over in statistics:
        if _single(over, lengths):
            large = over.per_pixel * prod(map(target_length, over.dims))
            raise SizeError(
                f"input size too small: {place(over.node)}: one pixel is left to normalise over "
                f"({large} values in the target), too few for a batch of one image"
            )


def _single(over: Statistics, lengths: Lengths) -> bool:
    large = over.per_pixel * prod(map(target_length, over.dims))
    small = over.per_pixel * prod(pretrain_length(dim, lengths) for dim in over.dims)
    return small == 1 < large
