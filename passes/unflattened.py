"""Linear layers whose output features are viewed as a feature map, as in front of a decoder.

`linear(code).view(-1, 32, 8, 8)` makes a map of 8 x 8 pixels that covers the image, so it scales as
maps do, and with it the rows of the layer's weight and its bias: one row a pixel and channel. Which
features are pixels shows only behind the view, where a window runs over them or a map meets them.
Whoever finds out raises `KeepLengthError`, and the annotate pass starts anew with the layer's
features as what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fxscale.passes.axes import Axis, Dim
from fxscale.passes.parts import KeepLengthError, Unflattening

if TYPE_CHECKING:
    from fxscale.passes.ops.registry import Call


class UnflattenedMaps:
    """The features of one run of the annotate pass that are, or may turn out to be, pixels."""

    def __init__(self, found: Iterable[object], images: Sequence[tuple[Axis, ...]]) -> None:
        self.images = images
        self.found = {item.weight: item for item in found if isinstance(item, Unflattening)}
        self._made: dict[str, Dim] = {}
        self._vectors: dict[Axis, str] = {}
        self._parts: dict[Axis, tuple[str, tuple[int, ...], int]] = {}

    def image_axes(self, rank: int) -> tuple[Axis, ...] | None:
        """The axes of the first image of that many."""
        return next((axes for axes in self.images if len(axes) == rank), None)

    def features(self, call: Call, weight: str, bias: str | None, out: Dim) -> Dim:
        """What the output features of a linear layer over one vector a sample are made of."""
        if weight in self._made:
            return self._made[weight]
        if weight not in self.found:
            self._vectors |= dict.fromkeys(out, weight)
            return out
        found = self.found[weight]
        images = self.image_axes(found.rank)
        assert images is not None
        axes = [Axis(length, spatial=False) for length in found.lengths]
        for index, place in found.pixels:
            axes[index] = call.annotator.refit(call.node, images[place], axes[index].target, None)
        if bias is not None:
            call.annotator.feature(bias, (tuple(axes),))
        self._made[weight] = tuple(axes)
        return self._made[weight]

    def take_apart(self, axis: Axis, parts: Sequence[Axis]) -> None:
        """A view takes the features of a vector apart."""
        weight = self._vectors.get(axis)
        if weight is not None:
            lengths = tuple(part.target for part in parts)
            self._parts |= {part: (weight, lengths, index) for index, part in enumerate(parts)}

    def meets_map(self, dims: Sequence[Dim]) -> None:
        """A tensor of these dimensions meets a map, over which the last ones lie."""
        for rank in {len(axes) for axes in self.images}:
            self._are_pixels(dims[-rank:])

    def meets_window(self, dims: Sequence[Dim]) -> None:
        """A window runs over all of these dimensions."""
        if all(dims):
            self._are_pixels(dims)

    def _are_pixels(self, dims: Sequence[Dim]) -> None:
        """Start anew if these dimensions, but for single pixels, are the features of a vector."""
        long = [(place, dim[0]) for place, dim in enumerate(dims) if len(dim) == 1]
        parts = [(place, *self._parts[axis]) for place, axis in long if axis in self._parts]
        views = {(weight, lengths) for _, weight, lengths, _ in parts}
        if len(parts) == sum(map(bool, dims)) and len(views) == 1 and self.image_axes(len(dims)):
            ((weight, lengths),) = views
            pixels = tuple((index, place) for place, _, _, index in parts)
            raise KeepLengthError([Unflattening(weight, lengths, len(dims), pixels)])
