"""Views of constants that take their lengths from a feature map.

`self.positions.expand(n, h * w, c)` and `self.grid.view(1, c, h, w)` name the lengths that the
constant has. In the pre-train network `h` and `w` are smaller, and the constant is not: it is
resized behind the view, where it meets a feature map. Its view is made with the target's lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from fxscale.passes.annotations import measures_a_map, measures_the_batch
from fxscale.passes.axes import Annotation, Substitution
from fxscale.passes.origins import Origin, holds_tensor
from fxscale.passes.proxies import VALUE

_EXPAND = "expand"
_VIEWS: Mapping[Any, int] = {
    _EXPAND: 1,
    "reshape": 1,
    "unflatten": 2,
    "view": 1,
    torch.reshape: 1,
    torch.unflatten: 2,
}
"""Which argument of a view is its shape, or, for methods, the first of its lengths."""


def with_target_lengths(
    node: fx.Node, origins: Mapping[fx.Node, Origin], annotations: Mapping[fx.Node, Annotation]
) -> tuple[Substitution, ...]:
    """The lengths in a view of a constant that are to be the target's; none if it is no such."""
    first = _VIEWS.get(node.target)
    constant = node.args[0] if node.args else None
    if first is None or not isinstance(constant, fx.Node):
        return ()
    if origins[constant] is not Origin.CONSTANT or not holds_tensor(constant):
        return ()
    lengths = dict(_lengths(node, first))
    measured = {
        place: length.meta[VALUE]
        for place, length in lengths.items()
        if isinstance(length, fx.Node) and isinstance(length.meta[VALUE], int)
        if measures_a_map(length, annotations) and not measures_the_batch(length, annotations)
    }
    if node.target == _EXPAND:
        shape = constant.meta[VALUE].shape
        own = dict(zip(lengths, (1,) * (len(lengths) - len(shape)) + shape, strict=True))
        if all(own[place] == 1 for place in measured):
            return ()  # repeated to a length that comes out by itself
    return tuple(Substitution(node, place, value) for place, value in measured.items())


def _lengths(node: fx.Node, first: int) -> Iterator[tuple[tuple[int, ...], Any]]:
    """The lengths of a view and where they stand in its arguments."""
    rest = node.args[first:]
    if len(rest) == 1 and isinstance(rest[0], tuple | list):
        yield from (((first, i), length) for i, length in enumerate(rest[0]))
    else:
        yield from (((first + i,), length) for i, length in enumerate(rest))
