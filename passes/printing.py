"""What a pass found, as text: `FXSCALE_PRINT=1` prints it after every pass."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import singledispatch
from typing import Any

from fxscale.modes import EVAL, TRAIN
from fxscale.passes.axes import AnnotatedNetwork
from fxscale.passes.geometry import Geometry
from fxscale.passes.padding import Paddings
from fxscale.passes.sites import Sites
from fxscale.passes.trace import TracedNetwork
from fxscale.plan import ScalePlan
from fxscale.pretrain_network import PretrainNetwork


def print_pass(name: str, seconds: float, result: Any) -> None:
    print(f"== {name} ({seconds * 1e3:.0f} ms)", file=sys.stderr)
    for line in lines(result):
        print(f"   {line}", file=sys.stderr)


@singledispatch
def lines(result: Any) -> Iterator[str]:
    """The lines that describe a pass's result."""
    if result is not None:
        yield from str(result).splitlines()


@lines.register
def _(result: TracedNetwork) -> Iterator[str]:
    both = set(result.order[TRAIN]) & set(result.order[EVAL])
    for node in result.graph.nodes:
        mode = "" if node in both else "  [train]" if node in result.order[TRAIN] else "  [eval]"
        yield f"{node.format_node()}{mode}"


@lines.register
def _(result: AnnotatedNetwork) -> Iterator[str]:
    for node, annotation in result.annotations.items():
        if annotation is not None:
            yield f"{node.name}: {annotation}"


@lines.register
def _(result: Sites) -> Iterator[str]:
    for convolution in result.convolutions:
        calls = ", ".join(call.node.name for call in convolution.calls)
        yield f"{convolution.first.operator} {convolution.name} {convolution.kernel_size}: {calls}"
    for interface in result.interfaces:
        yield f"fully connected interface {interface.name}: {interface.dim}"


@lines.register(dict)
def _(result: Mapping[str, Any]) -> Iterator[str]:
    for name, value in result.items():
        yield f"{name}: {value}"


@lines.register
def _(result: Geometry) -> Iterator[str]:
    for window, padding in result.paddings.items():
        yield (
            f"{window.node.name} axis {window.position}: {window.out.target} -> "
            f"{result.lengths[window.out]}, padding {window.padding} -> {padding}, "
            f"drift {result.drift(window.out):+.3f}"
        )
    for adapter in result.adapters:
        yield f"{adapter.operand.name} -> {adapter.join.name}: padding {adapter.padding}"


@lines.register
def _(result: Paddings) -> Iterator[str]:
    for weight, padding in result.layers.items():
        yield f"{weight}: {'unchanged' if padding is None else padding}"
    for node, amounts in result.extra.items():
        yield f"pad operator in front of {node.name}: {amounts}"


@lines.register
def _(result: tuple) -> Iterator[str]:  # type: ignore[type-arg]  # state maps
    yield from map(str, result)


@lines.register
def _(result: ScalePlan) -> Iterator[str]:
    yield from str(result).splitlines()


@lines.register
def _(result: PretrainNetwork) -> Iterator[str]:
    yield from str(result.graph).splitlines()
