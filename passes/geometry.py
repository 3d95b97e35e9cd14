"""Pass 5, solve geometry: the length of every spatial axis and the padding of every convolution.

The axes form a graph; between the points where its paths meet or part (anchors) run chains of
windows. Chains are solved in the order of the flow by dynamic programming over (length, grid):
along a chain, the paddings are chosen that cost least, where

1. a pad operator (a one-sided padding, a crop) costs most: prefer p = 1, then p = 0, over two 2x2
   convolutions, which needs none;
2. a map whose grid drifts from the target's by more than a quarter of a pixel costs more than a
   pad operator;
3. of two maps that meet, the one that lies off the other costs by the square of the distance;
4. lengths are as close as possible to the target's times the input ratio.

At a join all operands get one length. Equal target lengths get equal pre-train lengths at all
anchors, so that joins which have nothing to do with each other still agree where they meet later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor

from torch import fx

from fxscale.errors import SizeError
from fxscale.passes.axes import (
    AnnotatedNetwork,
    Axis,
    Event,
    Join,
    Operand,
    Refit,
    Window,
)
from fxscale.passes.grids import (
    Grid,
    drift,
    image_grid,
    target_grids,
    through_refit,
    through_window,
)
from fxscale.passes.tracer import module_path

PAD_COST = 1.0
ADAPTER_COST = 1.5
DRIFT_LIMIT = 0.25
OVER_LIMIT_COST = 1.5
DRIFT_COST = 0.2
MISMATCH_COST = 2.0
SIZE_COST = 5.0
LARGER_FIRST = 1e-3
OWN_PADDING = 1e-4
TOLERANCE = 1.5
BEAM = 16

Padding = tuple[int, int]


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
    """Solve for all lengths and paddings; `image_lengths` are the pre-train sizes of the inputs."""
    return _Solver(network, kernels, image_lengths).run()


@dataclass(frozen=True)
class _Step:
    """One decision on the way: the grid that `axis` gets, behind `window` with `padding`."""

    axis: Axis
    grid: Grid
    window: Window | None = None
    padding: Padding = (0, 0)


@dataclass(frozen=True)
class _Candidate:
    """A partial solution of a chain."""

    cost: float
    grid: Grid
    steps: tuple[_Step, ...] = ()
    adapter: Padding | None = None

    def then(self, step: _Step, cost: float) -> _Candidate:
        return _Candidate(self.cost + cost, step.grid, (*self.steps, step))


@dataclass
class _Solver:
    network: AnnotatedNetwork
    kernels: Mapping[str, tuple[int, ...]]
    image_lengths: Sequence[tuple[int, ...]]
    target: dict[Axis, Grid] = field(default_factory=dict)
    solved: dict[Axis, Grid] = field(default_factory=dict)
    pending: dict[Axis, list[_Candidate]] = field(default_factory=dict)
    paddings: dict[Window, Padding] = field(default_factory=dict)
    adapters: list[Adapter] = field(default_factory=list)
    ladder: dict[tuple[int, int, int], int] = field(default_factory=dict)
    images: dict[int, int] = field(default_factory=dict)
    module_padding: dict[tuple[str, int], Padding] = field(default_factory=dict)

    def run(self) -> Geometry:
        self.target = target_grids(self.network)
        for axes, lengths in zip(self.network.inputs, self.image_lengths, strict=True):
            for axis, length in zip(axes, lengths, strict=True):
                self.solved[axis] = image_grid(length)
        consumers = _consumers(self.network.events)
        done: set[Event] = set()
        for event in self.network.events:
            if event in done:
                continue
            if isinstance(event, Join):
                self._join(event)
                continue
            chain = _chain(event, consumers)
            done.update(chain)
            candidates = self._run_chain(chain)
            end = chain[-1].out
            if len(consumers[end]) == 1 and isinstance(consumers[end][0], Join):
                self.pending[end] = candidates
            else:
                self._settle_end(end, candidates, anchor=len(consumers[end]) > 1)
        solved = {axis: grid.length for axis, grid in self.solved.items()}
        return Geometry(self.target, self.solved, solved, self.paddings, tuple(self.adapters))

    # Lengths that the target's suggest.

    def _ideal(self, axis: Axis, grid: Grid) -> float:
        return axis.target * grid.image / self.target[axis].image

    def _rung(self, axis: Axis, grid: Grid) -> tuple[int, int, int]:
        return (self.target[axis].image, grid.image, axis.target)

    # Chains.

    def _run_chain(self, chain: Sequence[Window | Refit]) -> list[_Candidate]:
        start = self.solved[chain[0].source]
        beam = [_Candidate(0.0, start)]
        for event in chain:
            grown = [
                candidate.then(step, cost + self._map_cost(event.out, step.grid))
                for candidate in beam
                for step, cost in self._steps(event, candidate.grid)
            ]
            if not grown:
                raise self._vanishes(event, beam[0].grid)
            beam = self._prune(event.out, grown)
        return beam

    def _prune(self, axis: Axis, grown: Iterable[_Candidate]) -> list[_Candidate]:
        best: dict[tuple[int, float], _Candidate] = {}
        for candidate in grown:
            key = (candidate.grid.length, round(candidate.grid.offset, 6))
            if key not in best or candidate.cost < best[key].cost - 1e-9:
                best[key] = candidate
        near = [
            c for c in best.values() if abs(c.grid.length - self._ideal(axis, c.grid)) <= TOLERANCE
        ]
        if not near:
            closest = min(abs(c.grid.length - self._ideal(axis, c.grid)) for c in best.values())
            near = [
                c
                for c in best.values()
                if abs(c.grid.length - self._ideal(axis, c.grid)) <= closest + 1
            ]
        return sorted(near, key=lambda c: c.cost)[:BEAM]

    def _steps(self, event: Window | Refit, grid: Grid) -> Iterable[tuple[_Step, float]]:
        if isinstance(event, Refit):
            for length in self._refit_lengths(event, grid):
                yield _Step(event.out, through_refit(grid, event, length)), 0.0
            return
        kernel_size = self._kernel_size(event)
        if _exceeds(event, kernel_size, grid.length) and not _exceeds(
            event, event.kernel_size, event.source.target
        ):
            return
        for padding, cost in self._paddings(event, kernel_size):
            out = through_window(grid, event, kernel_size, padding)
            if out is not None and grid.length + sum(padding) > 0:
                yield _Step(event.out, out, event, padding), cost

    def _refit_lengths(self, event: Refit, grid: Grid) -> tuple[int, ...]:
        if event.scale is not None:
            length = floor(grid.length * event.scale + 1e-9)
            return (length,) if length > 0 else ()
        ideal = self._ideal(event.out, grid)
        rung = self.ladder.get(self._rung(event.out, grid))
        return (rung,) if rung is not None else (max(1, round(ideal)),)

    def _kernel_size(self, window: Window) -> int:
        if window.site is None:
            return window.kernel_size
        return self.kernels[window.site][window.position]

    def _paddings(self, window: Window, kernel_size: int) -> Iterable[tuple[Padding, float]]:
        """The paddings that a window may have, each with its cost."""
        own = window.padding
        if window.adjustable == "none":
            yield own, 0.0
            return
        if window.adjustable == "pad":
            for before in _between(own[0]):
                for after in _between(own[1]):
                    yield (before, after), OWN_PADDING * (before != own[0] or after != own[1])
            return
        fixed = self.module_padding.get((window.site or "", window.position))
        most = max(*own, window.dilation * (kernel_size - 1))
        for before in range(-1, most + 1):
            for after in range(max(-1, before - 1), before + 2):
                padding = (before, after)
                if window.transposed and (
                    before != after or before < 0 or fixed not in (None, padding)
                ):
                    continue
                free = padding == own if fixed is None else padding == fixed
                even = before == after >= 0 and fixed is None
                cost = 0.0 if free or even else PAD_COST
                yield padding, cost + OWN_PADDING * (abs(before - own[0]) + abs(after - own[1]))

    def _map_cost(self, axis: Axis, grid: Grid) -> float:
        apart = grid.length - self._ideal(axis, grid)
        off = drift(grid, self.target[axis])
        relative = apart / self._ideal(axis, grid)
        cost = SIZE_COST * relative**2 - LARGER_FIRST * relative + DRIFT_COST * off**2
        return cost + (OVER_LIMIT_COST if abs(off) > DRIFT_LIMIT + 1e-6 else 0.0)

    # Anchors.

    def _settle_end(self, axis: Axis, candidates: Sequence[_Candidate], *, anchor: bool) -> None:
        rung = self._rung(axis, candidates[0].grid)
        fitting = [c for c in candidates if c.grid.length == self.ladder.get(rung)]
        best = min(fitting or candidates, key=lambda c: c.cost)
        if anchor:
            self.ladder.setdefault(rung, best.grid.length)
        self._settle(best)

    def _settle(self, candidate: _Candidate) -> None:
        for step in candidate.steps:
            self.solved[step.axis] = step.grid
            if step.window is not None:
                self.paddings[step.window] = step.padding
                if step.window.adjustable == "conv":
                    key = (step.window.site or "", step.window.position)
                    self.module_padding.setdefault(key, step.padding)

    def _join(self, join: Join) -> None:
        operands = list({operand.axis: operand for operand in join.operands}.values())
        choices = [self._choices(operand) for operand in operands]
        reference = max(range(len(operands)), key=lambda i: self.target[operands[i].axis].depth)
        rung = self._rung(join.out, choices[reference][0].grid)
        known = self.ladder.get(rung)
        lengths = {known} if known else {c.grid.length for row in choices for c in row}
        _, _, chosen = min(
            (self._meet(operands, choices, reference, length) for length in sorted(lengths)),
            key=lambda option: option[:2],
        )
        for operand, candidate in zip(operands, chosen, strict=True):
            if operand.axis not in self.solved:
                self._settle(candidate)
            if candidate.adapter is not None:
                self._adapt(join, operand.axis, candidate.adapter)
        out = chosen[reference].grid
        self.solved[join.out] = out
        self.ladder.setdefault(rung, out.length)

    def _choices(self, operand: Operand) -> list[_Candidate]:
        if operand.axis in self.solved:
            return [_Candidate(0.0, self.solved[operand.axis])]
        return self.pending[operand.axis]

    def _meet(
        self,
        operands: Sequence[Operand],
        choices: Sequence[Sequence[_Candidate]],
        reference: int,
        length: int,
    ) -> tuple[float, float, list[_Candidate]]:
        """The cheapest way for all operands to arrive with this length."""
        fitted = [
            self._fit(operand.axis, row, length)
            for operand, row in zip(operands, choices, strict=True)
        ]
        offs = [
            [drift(c.grid, self.target[operand.axis]) for c in row]
            for operand, row in zip(operands, fitted, strict=True)
        ]
        best: tuple[float, list[_Candidate]] | None = None
        for lead, lead_off in zip(fitted[reference], offs[reference], strict=True):
            cost, chosen = lead.cost, []
            for index, row in enumerate(fitted):
                if index == reference:
                    chosen.append(lead)
                    continue
                priced = [
                    (c.cost + MISMATCH_COST * (off - lead_off) ** 2, i)
                    for i, (c, off) in enumerate(zip(row, offs[index], strict=True))
                ]
                price, i = min(priced)
                cost += price
                chosen.append(row[i])
            if best is None or cost < best[0] - 1e-9:
                best = (cost, chosen)
        assert best is not None
        lead_axis, lead_grid = operands[reference].axis, best[1][reference].grid
        return best[0], abs(length - self._ideal(lead_axis, lead_grid)), best[1]

    def _fit(self, axis: Axis, row: Sequence[_Candidate], length: int) -> list[_Candidate]:
        """Candidates of the wanted length; where there are none, the best ones adapted to it."""
        fitting = [c for c in row if c.grid.length == length]
        if fitting:
            return fitting
        adapted = []
        for candidate in row[:4]:
            missing = length - candidate.grid.length
            for before in {floor(missing / 2), ceil(missing / 2)}:
                padding = (before, missing - before)
                grid = candidate.grid.padded(*padding)
                cost = candidate.cost + ADAPTER_COST + self._map_cost(axis, grid)
                adapted.append(replace(candidate, cost=cost, grid=grid, adapter=padding))
        return adapted

    def _adapt(self, join: Join, axis: Axis, padding: Padding) -> None:
        self.adapters += [
            Adapter(join.node, operand.node, operand.dim, padding)
            for operand in join.operands
            if operand.axis is axis
        ]

    def _vanishes(self, event: Window | Refit, grid: Grid) -> SizeError:
        kernel = self._kernel_size(event) if isinstance(event, Window) else 1
        return SizeError(
            f"input size too small: at the node {event.node.name!r} (module "
            f"{module_path(event.node)!r}) the feature map has {grid.length} pixels left along an "
            f"axis ({event.source.target} in the target), too few for a kernel of {kernel}; choose "
            f"an input_size larger than {grid.image}"
        )


def _exceeds(window: Window, kernel_size: int, length: int) -> bool:
    """Whether a convolution's kernel is larger than its map, which then holds mostly padding."""
    span = window.dilation * (kernel_size - 1) + 1
    return window.site is not None and not window.transposed and span > length


def _between(amount: int) -> range:
    """From the own padding towards none."""
    return range(amount, -1, -1) if amount >= 0 else range(amount, 1)


def _consumers(events: Iterable[Event]) -> dict[Axis, list[Event]]:
    consumers: dict[Axis, list[Event]] = defaultdict(list)
    for event in events:
        if isinstance(event, Join):
            for axis in {operand.axis for operand in event.operands}:
                consumers[axis].append(event)
        else:
            consumers[event.source].append(event)
    return consumers


def _chain(
    first: Window | Refit, consumers: Mapping[Axis, Sequence[Event]]
) -> list[Window | Refit]:
    """The windows from `first` to the next axis where paths meet, part or end."""
    chain = [first]
    while True:
        following = consumers.get(chain[-1].out, ())
        if len(following) != 1 or isinstance(following[0], Join):
            return chain
        chain.append(following[0])
