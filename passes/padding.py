"""Pass 6, place paddings: from the solved padding of every call to layers and pad operators.

A layer takes the symmetric padding that all of its calls share along an axis; what is left over
(a one-sided padding, a crop, calls that differ) goes to a pad operator in front of the call.
A max pool takes what its windows begin with; one window more at the end is its `ceil_mode`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from fxscale.passes.axes import ConvSite, Window
from fxscale.passes.geometry import Geometry
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import refusal
from fxscale.passes.sites import Convolution, Sites
from fxscale.passes.windows import window_length
from fxscale.plan import Padding


@dataclass(frozen=True)
class Paddings:
    """Where the padding of every convolution goes.

    `calls` is the whole padding of a call. `layers` is the padding of the layer itself, by weight,
    or `None` where the target's own stays, whatever it is (`padding="same"`). `extra` is what a pad
    operator in front of the call adds, for the calls that need one. `pools` are the max pools that
    do not keep theirs.
    """

    calls: Mapping[fx.Node, Padding]
    layers: Mapping[str, tuple[int, ...] | None]
    extra: Mapping[fx.Node, Padding]
    pools: Mapping[fx.Node, PoolPadding]


@dataclass(frozen=True)
class PoolPadding:
    """What a max pool gets: `before` becomes `after`, by its own `padding` and `ceil_mode`.

    `extra` is what a pad operator adds in front, where only some of its axes want `ceil_mode`.
    """

    before: Padding
    after: Padding
    padding: tuple[int, ...]
    ceil_mode: bool
    extra: Padding | None


def place_paddings(
    sites: Sites, kernels: Mapping[str, tuple[int, ...]], geometry: Geometry
) -> Paddings:
    solved: dict[fx.Node, dict[int, tuple[int, int]]] = defaultdict(dict)
    for window, padding in geometry.paddings.items():
        if window.site is not None:
            solved[window.node][window.position] = padding
    calls: dict[fx.Node, Padding] = {}
    layers: dict[str, tuple[int, ...] | None] = {}
    extra: dict[fx.Node, Padding] = {}
    for convolution in sites.convolutions:
        for call in convolution.calls:
            calls[call.node] = tuple(
                solved[call.node].get(position, own) for position, own in enumerate(call.padding)
            )
        layer = _layer_padding(convolution, kernels[convolution.weight], calls)
        layers[convolution.weight] = layer
        for call in convolution.calls:
            rest = _rest(call, layer, calls[call.node])
            if rest is not None:
                extra[call.node] = rest
    return Paddings(calls, layers, extra, dict(_pools(geometry)))


def _layer_padding(
    convolution: Convolution,
    kernel_size: tuple[int, ...],
    calls: Mapping[fx.Node, Padding],
) -> tuple[int, ...] | None:
    wanted = [calls[call.node] for call in convolution.calls]
    unchanged = all(calls[call.node] == call.padding for call in convolution.calls)
    if kernel_size == convolution.kernel_size and unchanged:
        return None
    shared = []
    for position in range(len(kernel_size)):
        amounts = {padding[position] for padding in wanted}
        before, after = next(iter(amounts))
        shared.append(before if len(amounts) == 1 and before == after >= 0 else 0)
    return tuple(shared)


def _pools(geometry: Geometry) -> Iterator[tuple[fx.Node, PoolPadding]]:
    """The max pools whose paddings change; an axis that no window runs along has none."""
    windows: dict[fx.Node, dict[int, Window]] = defaultdict(dict)
    for window in geometry.paddings:
        if window.adjustable == "pool":
            windows[window.node][window.position] = window
    for node, along in windows.items():
        rank = node.meta[VALUE].ndim - 2
        before, after = [(0, 0)] * rank, [(0, 0)] * rank
        for position, window in along.items():
            before[position], after[position] = window.padding, geometry.paddings[window]
        if before != after:
            yield node, _pool_padding(geometry, list(along.values()), tuple(before), tuple(after))


def _pool_padding(
    geometry: Geometry, windows: Sequence[Window], before: Padding, after: Padding
) -> PoolPadding:
    rest = tuple((0, last - first) for first, last in after)
    uneven = any(last for _, last in rest)
    ceil_mode = windows[0].ceil_mode or (
        uneven and all(_fits_ceil_mode(geometry, window) for window in windows)
    )
    return PoolPadding(
        before,
        after,
        padding=tuple(first for first, _ in after),
        ceil_mode=ceil_mode,
        extra=rest if uneven and not ceil_mode else None,
    )


def _fits_ceil_mode(geometry: Geometry, window: Window) -> bool:
    """Whether `ceil_mode` gives an axis the length that was solved for it."""
    first, _ = geometry.paddings[window]
    length = window_length(
        geometry.lengths[window.source],
        window.kernel_size,
        window.stride,
        (first, first),
        window.dilation,
        ceil_mode=True,
    )
    return length == geometry.lengths[window.out]


def _rest(call: ConvSite, layer: tuple[int, ...] | None, wanted: Padding) -> Padding | None:
    if layer is None:
        return None
    rest = tuple((before - p, after - p) for (before, after), p in zip(wanted, layer, strict=True))
    if all(pair == (0, 0) for pair in rest):
        return None
    if call.transposed:
        raise refusal(
            call.node,
            "a transposed convolution would need a padding that its calls do not share",
            remedy="use one layer per call, or another input_size",
            module=call.name,
        )
    return rest
