"""One chain of windows between two anchors: the cheapest paddings, by dynamic programming.

The state behind each window is the length of the map and where its grid lies. What costs:

1. a pad operator (a one-sided padding, a crop) costs most: prefer p = 0, then p = 1, over two 2x2
   convolutions, which needs none;
2. a map whose grid drifts from the target's by more than a quarter of a pixel costs more than a
   pad operator;
3. lengths are as close as possible to the target's times the input ratio, rather smaller, which
   takes less time and is made up for by the next layer: hence p = 0 first. But the last map of a
   chain, behind which its length stays, is rather larger than too small by more than a twentieth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf

from fxscale.errors import SizeError
from fxscale.passes.axes import Axis, Refit, Split, Window
from fxscale.passes.axis_graph import Chain
from fxscale.passes.grids import Grid, drift, through_refit, through_window
from fxscale.passes.partition import split_cost
from fxscale.passes.refusal import place

PAD_COST = 1.0
DRIFT_LIMIT = 0.25
OVER_LIMIT_COST = 1.5
DRIFT_COST = 0.2  # times the drift squared
SIZE_COST = 5.0  # times the relative deviation squared
INDIVISIBLE_COST = 1.0  # for a map as long as those that are split into windows
SINGLE_COST = 100.0  # for a single pixel where one is too few to normalise over
LARGER_COST = 0.2  # times the relative deviation of a map that is larger
FEW = 4  # maps of fewer pixels give up none
BORDER = 0.05  # the last map of a chain gives up no more of its length
OWN_PADDING = 1e-7  # of two equal solutions, the one with the target's padding
TOLERANCE = 1.5  # pixels a length may lie off the target's times the input ratio
BEAM = 16

Padding = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """One decision: the grid that `axis` gets, behind `window` with `padding`."""

    axis: Axis
    grid: Grid
    window: Window | None = None
    padding: Padding = (0, 0)


@dataclass(frozen=True)
class Candidate:
    """A way through a chain, or a part of it; `adapter` pads or crops what comes out of it."""

    cost: float
    grid: Grid
    steps: tuple[Step, ...] = ()
    adapter: Padding | None = None

    def then(self, step: Step, cost: float) -> Candidate:
        return Candidate(self.cost + cost, step.grid, (*self.steps, step))


class Ladder:
    """Pre-train lengths of the anchors: equal target lengths get equal ones everywhere."""

    def __init__(self, target: Mapping[Axis, Grid], splits: Iterable[Split] = ()) -> None:
        self.target = target
        self._rungs: dict[tuple[int, int, int], int] = {}
        self._splits: dict[tuple[int, int], list[Split]] = {}
        for split in splits:
            rung = (target[split.source].image, split.source.target)
            self._splits.setdefault(rung, []).append(split)

    def ideal(self, axis: Axis, grid: Grid) -> float:
        """The target's length times the input ratio."""
        return axis.target * grid.image / self.target[axis].image

    def length(self, axis: Axis, grid: Grid) -> int | None:
        return self._rungs.get(self._rung(axis, grid))

    def fix(self, axis: Axis, grid: Grid) -> None:
        self._rungs.setdefault(self._rung(axis, grid), grid.length)

    def split_cost(self, axis: Axis, length: int) -> float:
        """What it costs to split maps of this rung at a length; infinite where it does not divide.

        An axis that is not split itself counts too, for all of a rung get one length.
        """
        splits = self._splits.get((self.target[axis].image, axis.target), ())
        return max((split_cost(split, length) for split in splits), default=0.0)

    def divisible_near(self, axis: Axis, ideal: float) -> set[int]:
        """Lengths within the tolerance at which the maps of this rung can be split."""
        around = range(max(1, ceil(ideal - TOLERANCE)), floor(ideal + TOLERANCE) + 1)
        return {length for length in around if self.split_cost(axis, length) < inf}

    def _rung(self, axis: Axis, grid: Grid) -> tuple[int, int, int]:
        return (self.target[axis].image, grid.image, axis.target)


class ChainSolver:
    """Solves chains; remembers the padding of every layer, which its later calls must share.

    Maps along `normalised` axes keep more than one pixel, if they can.
    """

    def __init__(
        self,
        kernels: Mapping[str, tuple[int, ...]],
        ladder: Ladder,
        normalised: frozenset[Axis] = frozenset(),
    ) -> None:
        self.kernels = kernels
        self.ladder = ladder
        self.normalised = normalised
        self._layer_paddings: dict[tuple[str, int], Padding] = {}

    def solve(self, chain: Chain, start: Grid) -> list[Candidate]:
        """The ways through a chain, the cheapest for each outcome, cheapest first."""
        beam = [Candidate(0.0, start)]
        for event in chain:
            last = event is chain[-1]
            grown = [
                candidate.then(step, cost + self.map_cost(event.out, step.grid, last=last))
                for candidate in beam
                for step, cost in self._steps(event, candidate.grid)
            ]
            if not grown:
                raise self._too_small(event, beam[0].grid)
            beam = self._prune(event.out, grown)
        return beam

    def settle(self, window: Window, padding: Padding) -> None:
        """A call of a layer has been solved."""
        if window.site is not None:
            self._layer_paddings.setdefault((window.site, window.position), padding)

    def map_cost(self, axis: Axis, grid: Grid, *, last: bool) -> float:
        ideal = self.ladder.ideal(axis, grid)
        relative = (grid.length - ideal) / ideal
        off = drift(grid, self.ladder.target[axis])
        short = grid.length < FEW or (last and relative < -BORDER)
        wrong = 2 * abs(relative) if short else max(0.0, relative)
        cost = SIZE_COST * relative**2 + LARGER_COST * wrong + DRIFT_COST * off**2
        cost += min(self.ladder.split_cost(axis, grid.length), INDIVISIBLE_COST)
        if axis in self.normalised and grid.length == 1:
            cost += SINGLE_COST
        return cost + (OVER_LIMIT_COST if abs(off) > DRIFT_LIMIT + 1e-6 else 0.0)

    def _prune(self, axis: Axis, grown: Iterable[Candidate]) -> list[Candidate]:
        best: dict[tuple[int, float], Candidate] = {}
        for candidate in grown:
            key = (candidate.grid.length, round(candidate.grid.offset, 6))
            if key not in best or candidate.cost < best[key].cost - 1e-9:
                best[key] = candidate
        apart = {
            key: abs(c.grid.length - self.ladder.ideal(axis, c.grid)) for key, c in best.items()
        }
        allowed = TOLERANCE if min(apart.values()) <= TOLERANCE else min(apart.values()) + 1
        near = [candidate for key, candidate in best.items() if apart[key] <= allowed]
        return sorted(near, key=lambda c: c.cost)[:BEAM]

    def _steps(self, event: Window | Refit, grid: Grid) -> Iterator[tuple[Step, float]]:
        if isinstance(event, Refit):
            length = self._refit_length(event, grid)
            if length > 0:
                yield Step(event.out, through_refit(grid, event, length)), 0.0
            return
        kernel_size = self._kernel_size(event)
        if _exceeds(event, kernel_size, grid.length) and not _exceeds(
            event, event.kernel_size, event.source.target
        ):
            return
        for padding, cost in self._paddings(event, kernel_size):
            out = through_window(grid, event, kernel_size, padding)
            if out is not None and grid.length + sum(padding) > 0:
                yield Step(event.out, out, event, padding), cost

    def _refit_length(self, event: Refit, grid: Grid) -> int:
        if event.scale is not None:
            return floor(grid.length * event.scale + 1e-9)
        fixed = self.ladder.length(event.out, grid)
        length = fixed if fixed is not None else max(1, round(self.ladder.ideal(event.out, grid)))
        if event.pool and event.out.target <= event.source.target and length > grid.length:
            return 0 if fixed is not None else grid.length
        return length

    def _kernel_size(self, window: Window) -> int:
        if window.site is None:
            return window.kernel_size
        return self.kernels[window.site][window.position]

    def _paddings(self, window: Window, kernel_size: int) -> Iterator[tuple[Padding, float]]:
        """The paddings that a window may have, each with its cost."""
        own = window.padding
        if window.adjustable == "none":
            yield own, 0.0
        elif window.adjustable == "pool":
            for padding in pool_paddings(window):
                yield padding, OWN_PADDING * _apart(padding, own)
        elif window.adjustable == "pad":
            for before in _towards_none(own[0]):
                for after in _towards_none(own[1]):
                    yield (before, after), OWN_PADDING * ((before, after) != own)
        else:
            shared = self._layer_paddings.get((window.site or "", window.position))
            for padding in _around(max(*own, window.dilation * (kernel_size - 1))):
                if window.transposed and not _fits_transposed(padding, shared):
                    continue
                if shared is not None:
                    free = padding == shared
                else:
                    free = padding == own or padding[0] == padding[1] >= 0
                cost = 0.0 if free else PAD_COST
                yield padding, cost + OWN_PADDING * _apart(padding, own)

    def _too_small(self, event: Window | Refit, grid: Grid) -> SizeError:
        left = f"the feature map has {grid.length} pixels left along an axis"
        if isinstance(event, Window):
            needed = f"too few for a kernel of {self._kernel_size(event)}"
        else:
            needed = "which the layer would have to lengthen"
        return SizeError(
            f"input size too small: {place(event.node)}: {left} ({event.source.target} in the "
            f"target), {needed}"
        )


def _apart(padding: Padding, own: Padding) -> int:
    return abs(padding[0] - own[0]) + abs(padding[1] - own[1])


def _around(most: int) -> Iterator[Padding]:
    """Paddings from a crop of one pixel to `most`, one pixel more on either side at most."""
    for before in range(-1, most + 1):
        for after in range(max(-1, before - 1), before + 2):
            yield before, after


def pool_paddings(window: Window) -> Iterator[Padding]:
    """Paddings of a max pool: up to half the kernel, as torch allows, on both sides alike.

    What completes a last window is `ceil_mode`, as long as none begins behind the map.
    """
    span = window.dilation * (window.kernel_size - 1) + 1
    for amount in range(max(window.kernel_size // 2, *window.padding) + 1):
        yield amount, amount
        if not window.ceil_mode and 1 < window.stride <= span - amount:
            yield amount, amount + window.stride - 1


def _fits_transposed(padding: Padding, shared: Padding | None) -> bool:
    """A transposed convolution crops its output, on both sides alike, for all calls alike."""
    return padding[0] == padding[1] >= 0 and shared in (None, padding)


def _towards_none(amount: int) -> Sequence[int]:
    return range(amount, -1, -1) if amount >= 0 else range(amount, 1)


def _exceeds(window: Window, kernel_size: int, length: int) -> bool:
    """Whether a kernel is larger than its map in a way that is refused.

    A convolution's map would hold mostly padding; some pools want their kernel to fit.
    """
    span = window.dilation * (kernel_size - 1) + 1
    return (window.site is not None or window.fits) and not window.transposed and span > length
