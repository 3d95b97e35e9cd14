"""Blocks with a halo: windows that overlap, each a block of the map and what lies around it.

`F.pad(x, [h] * 4).unfold(2, b + 2 * h, b)` takes blocks of `b` pixels, and `h` more on either side.
The blocks are those of a view (`passes/parts.py`): as many of them stay, each of them smaller. A
window is its block with a pad, whose amounts the geometry pass solves for; `F.pad` gets the same.

That a pad makes a halo shows only where windows are taken. The annotate pass then begins anew with
the pad's result as a `Bordered` axis.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fxscale.passes.axes import Axis, Dim, Event, Lengths, Window, fixed_dim
from fxscale.passes.parts import Halo, KeepLengthError

if TYPE_CHECKING:
    from fxscale.passes.ops.registry import Call


@dataclass(frozen=True, eq=False)
class Bordered(Axis):
    """A map of `count` blocks with a halo in front and behind; a `window` is a block with both."""

    source: Axis = field(kw_only=True)
    count: Dim = field(kw_only=True)
    block: Axis = field(kw_only=True)
    window: Axis = field(kw_only=True)

    def length(self, lengths: Lengths) -> int:
        return (
            self.source.length(lengths) + self.window.length(lengths) - self.block.length(lengths)
        )

    def maps(self) -> Iterator[Axis]:
        return self.source.maps()

    def __repr__(self) -> str:
        return f"{self.source} and a halo"


def bordered(call: Call, dim: int, source: Axis, halo: tuple[int, int]) -> Bordered | None:
    """What a pad makes of dimension `dim`, if windows are taken of it later."""
    block_size = call.annotator.parts.halo_at(call.node, dim)
    if block_size is None:
        return None
    count: Dim = ()
    block = source
    if source.target > block_size:
        lengths = (source.target // block_size, block_size)
        first, block = call.annotator.parts.split(call.node, source, lengths, (False, True))
        count = (first,)
    if block.spatial:
        window = padded(call, dim, block, halo)
    else:
        (window,) = fixed_dim(block_size + sum(halo))
    target = source.target + sum(halo)
    return Bordered(target, spatial=True, source=source, count=count, block=block, window=window)


def padded(call: Call, dim: int, source: Axis, amounts: tuple[int, int]) -> Axis:
    """What a pad makes of an axis: amounts that the geometry pass may choose."""
    return call.annotator.window(
        node=call.node,
        source=source,
        position=dim - 2,
        kernel_size=1,
        padding=amounts,
        adjustable="pad",
    )


def windows_of(call: Call, axis: Axis, size: int, step: int) -> tuple[Dim, Dim] | None:
    """How many windows `Tensor.unfold` takes of an axis, and one of them; `None` if of no blocks.

    Raises `KeepLengthError` where a pad turns out to be a halo.
    """
    if isinstance(axis, Bordered):
        if (size, step) != (axis.window.target, axis.block.target):
            raise call.refuse(
                "takes windows of two sizes out of one padded map", "pad once for each of them"
            )
        for name, length in (("size", axis.window), ("step", axis.block)):
            if length.spatial:
                call.annotator.substitute(call.node, (length,), argument=call.place(name))
        return axis.count, (axis.window,)
    pad = _pad_of(axis, call.annotator.events)
    if pad is not None and size == step + sum(pad.padding) and pad.source.target % step == 0:
        raise KeepLengthError([Halo(pad.node, pad.position + 2, step)])
    return None


def _pad_of(axis: Axis, events: Sequence[Event]) -> Window | None:
    """The pad operator that an axis comes out of, the same on either side."""
    for event in reversed(events):
        if isinstance(event, Window) and event.out is axis:
            pad = event.adjustable == "pad" and event.node.target is not operator.getitem
            return event if pad and event.padding[0] == event.padding[1] > 0 else None
    return None
