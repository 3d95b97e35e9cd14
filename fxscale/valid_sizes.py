"""`valid_sizes`: the pre-train input sizes of a model, the best first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Unpack

from torch import nn

from fxscale.arguments import Arguments, read_arguments
from fxscale.errors import FxscaleError, SizeError, UnsupportedModelError
from fxscale.passes.axes import AnnotatedNetwork, Axis, Split, Window
from fxscale.passes.axis_graph import AxisGraph
from fxscale.passes.chains import DRIFT_LIMIT
from fxscale.passes.pipeline import (
    Solution,
    Target,
    pretrain_size,
    quietly,
    read_target,
    solve,
    solve_or_suggest,
)
from fxscale.passes.summarise import pad_operators
from fxscale.plan import Size

SMALLEST, LARGEST = 0.5, 0.9
"""Between these ratios to the target's size: beyond, little is left to learn, or to save."""

Track = Callable[[Sequence[Size]], Iterable[Size]]


@dataclass(frozen=True)
class ValidSize:
    """A pre-train input size that works, and how well the network's maps divide at it.

    `max_drift` is that of the plan, in pixels of a map. `deviation` is how far the maps at which
    paths meet, part or end lie from the target's length times the ratio: the root mean square, as a
    share. `padded` is the share of convolutions that need a pad operator.
    """

    size: Size
    ratio: float
    max_drift: float
    deviation: float
    pad_operators: int
    padded: float

    @property
    def multiple_of_8(self) -> bool:
        """Whether every length is a multiple of 8, as tensor cores like it."""
        return all(length % 8 == 0 for length in self.size)

    @property
    def multiple_of_32(self) -> bool:
        """Whether every length is a multiple of 32, which most networks reduce images by."""
        return all(length % 32 == 0 for length in self.size)

    @property
    def cost(self) -> float:
        """What the list is sorted by: maps that do not fit, pad operators, grids that lie apart."""
        return self.deviation + self.padded + max(0.0, self.max_drift - DRIFT_LIMIT)


def valid_sizes(
    model: nn.Module, *, track: Track = iter, **arguments: Unpack[Arguments]
) -> tuple[ValidSize, ...]:
    """The pre-train input sizes between 0.5 and 0.9 times the target's, the best first.

    The model is traced once and its geometry solved for every size of the target's shape: about a
    second for a ResNet. Of equally good sizes, the one nearest to the paper's ratio of 5 / 7 stands
    first. `arguments` are the keyword arguments of `fxscale.downscale`, which takes every size
    listed unless the model's code itself depends on the size. `track` gets the sizes that are about
    to be tried and hands them on one by one, as `tqdm.tqdm` and `rich.progress.track` do.

    **Raises:** `UnsupportedModelError` for a model that cannot be compiled, `SizeError` where no
    size works.
    """
    inputs, options = read_arguments(model, None, **arguments)
    target = read_target(model, inputs, options, quietly)
    anchors = _anchors(target.network)
    found: list[ValidSize] = []
    failure: FxscaleError | None = None
    for size in track(_sizes(target.size)):
        try:
            found.append(_measured(target, anchors, solve(target, size, options, quietly)))
        except (SizeError, UnsupportedModelError) as error:
            failure = error
    if not found:
        raise failure or SizeError(
            f"no size lies between {SMALLEST} and {LARGEST} times the target's {target.size}"
        )
    return tuple(sorted(found, key=lambda valid: (round(valid.cost, 3), abs(valid.ratio - 5 / 7))))


def default_sizes(model: nn.Module, **arguments: Unpack[Arguments]) -> tuple[Size, Size]:
    """The target size and the pre-train size that `fxscale.downscale` takes if it is given none.

    `arguments` and what is raised are those of `fxscale.downscale`.
    """
    inputs, options = read_arguments(model, None, **arguments)
    target = read_target(model, inputs, options, quietly)
    suggested = pretrain_size(None, target)
    return target.size, solve_or_suggest(target, suggested, options, quietly).size


def _sizes(target: Size) -> list[Size]:
    """Sizes of the target's shape, one for each length of the first axis."""
    lengths = range(ceil(SMALLEST * target[0]), floor(LARGEST * target[0]) + 1)
    return [tuple(max(1, round(n * length / target[0])) for n in target) for length in lengths]


def _anchors(network: AnnotatedNetwork) -> list[Axis]:
    """The axes at which paths meet, part or end; between them, a map may be a pixel longer."""
    graph = AxisGraph(network.events)
    made = [event.out for event in network.events if not isinstance(event, Split)]
    consumers = {axis: graph.consumers(axis) for axis in made}
    return [
        axis
        for axis, readers in consumers.items()
        if len(readers) != 1 or not isinstance(readers[0], Window)
    ]


def _measured(target: Target, anchors: Sequence[Axis], solution: Solution) -> ValidSize:
    geometry = solution.geometry
    off = []
    for axis in anchors:
        small, large = geometry.pretrain[axis], geometry.target[axis]
        off.append(small.length * large.image / (large.length * small.image) - 1)
    pads = len(pad_operators(geometry, solution.paddings))
    return ValidSize(
        size=solution.size,
        ratio=solution.ratios[0],
        max_drift=max((abs(geometry.drift(axis)) for axis in geometry.pretrain), default=0.0),
        deviation=sqrt(sum(share**2 for share in off) / max(1, len(off))),
        pad_operators=pads,
        padded=pads / len(target.network.convs),
    )
