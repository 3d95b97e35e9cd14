"""Sampling grids: where on the input image the pixels of a feature map look.

Index `i` of an axis looks at image coordinate `step * i + offset` (pixels of the image, the first
one centred at 0). A map's centre lies some way off the image's centre, which its own pixels
measure (one pixel = its accumulated stride); the drift is how much further off the pre-train map's
centre lies than the target map's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from fxscale.passes.axes import (
    AnnotatedNetwork,
    Axis,
    Flattening,
    Join,
    Merge,
    Refit,
    Split,
    Window,
)
from fxscale.passes.windows import window_length


@dataclass(frozen=True)
class Grid:
    """The grid of one axis; `depth` counts the windows between it and the image."""

    length: int
    step: float
    offset: float
    image: int
    depth: int = 0

    @property
    def off_centre(self) -> float:
        """Distance of the map's centre from the image's, in pixels of the map."""
        return (self.step * (self.length - 1) / 2 + self.offset - (self.image - 1) / 2) / self.step

    def padded(self, before: int, after: int) -> Grid:
        return replace(
            self, length=self.length + before + after, offset=self.offset - self.step * before
        )


def image_grid(length: int) -> Grid:
    return Grid(length, step=1.0, offset=0.0, image=length)


def drift(pretrain: Grid, target: Grid) -> float:
    """How much further off centre the pre-train map lies, in its own pixels."""
    return pretrain.off_centre - target.off_centre


def through_window(
    grid: Grid, window: Window, kernel_size: int, padding: tuple[int, int]
) -> Grid | None:
    """The grid behind a window with this kernel and padding; `None` where no pixel is left."""
    length = window_length(
        grid.length,
        kernel_size,
        window.stride,
        padding,
        window.dilation,
        window.ceil_mode,
        window.transposed,
        window.output_padding,
    )
    if length < 1:
        return None
    reach = window.dilation * (kernel_size - 1) / 2
    if window.transposed:
        step = grid.step / window.stride
        offset = grid.offset + step * (padding[0] - reach)
    else:
        step = grid.step * window.stride
        offset = grid.offset + grid.step * (reach - padding[0])
    return Grid(length, step, offset, grid.image, grid.depth + 1)


def through_refit(grid: Grid, refit: Refit, length: int) -> Grid:
    """The grid of a map that is laid anew over the same extent of the image."""
    step = grid.step * grid.length / length if refit.scale is None else grid.step / refit.scale
    edge = grid.offset - grid.step / 2
    return Grid(length, step, edge + step / 2, grid.image, grid.depth + 1)


def part_grids(grid: Grid, split: Split, lengths: Sequence[int]) -> dict[Axis, Grid]:
    """The grids of the parts of an axis.

    A lone spatial part that runs over whole blocks of pixels (space to depth) looks at their
    middles. Several parts look at no place of the image: each is an image of its own.
    """
    spatial = [index for index, part in enumerate(split.parts) if part.spatial]
    if spatial == [0]:
        block = prod(lengths[1:])
        offset = grid.offset + grid.step * (block - 1) / 2
        whole = Grid(lengths[0], grid.step * block, offset, grid.image, grid.depth + 1)
        return {split.parts[0]: whole}
    return {split.parts[index]: image_grid(lengths[index]) for index in spatial}


def merged_grid(source: Grid, length: int) -> Grid:
    """The grid of an axis put together from parts: it covers what the one taken apart covered."""
    step = source.step * source.length / length
    edge = source.offset - source.step / 2
    return Grid(length, step, edge + step / 2, source.image, source.depth + 1)


def row_grid(parts: Sequence[Grid]) -> Grid:
    """The grid of a flattened map: the row of its pixels covers a row of all the image's pixels."""
    length, image = prod(p.length for p in parts), prod(p.image for p in parts)
    step = image / length
    return Grid(length, step, (step - 1) / 2, image, 1 + max(p.depth for p in parts))


def target_grids(network: AnnotatedNetwork) -> dict[Axis, Grid]:
    """The grid of every spatial axis of the target; where maps meet, the deepest one's."""
    grids = {axis: image_grid(axis.target) for axes in network.inputs for axis in axes}
    for event in network.events:
        if isinstance(event, Join):
            grids[event.out] = max((grids[o.axis] for o in event.operands), key=lambda g: g.depth)
        elif isinstance(event, Split):
            lengths = [part.target for part in event.parts]
            grids |= part_grids(grids[event.source], event, lengths)
        elif isinstance(event, Merge):
            grids[event.out] = merged_grid(grids[event.source], event.out.target)
        elif isinstance(event, Flattening):
            grids[event.out] = row_grid([grids[part] for part in event.parts])
        elif isinstance(event, Refit):
            grids[event.out] = through_refit(grids[event.source], event, event.out.target)
        else:
            out = through_window(grids[event.source], event, event.kernel_size, event.padding)
            assert out is not None
            assert out.length == event.out.target
            grids[event.out] = out
    return grids
