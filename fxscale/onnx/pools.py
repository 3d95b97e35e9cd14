"""Pools whose `ceil_mode` torch and ONNX read differently."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxscript import ir


def count_windows_as_torch(model: ir.Model) -> None:
    """Write pools without `ceil_mode` where ONNX would count a window that torch drops.

    It is the one that begins in the padding behind a map. onnxruntime drops it as well, but ONNX's
    shape inference, and so its checker, does not. Without `ceil_mode`, a max pool gets as much more
    padding (of minus infinity) as its last windows lack. An average pool of which other windows
    lack something stays, since its padding would be averaged over.
    """
    for node in model.graph:
        if node.op_type in ("MaxPool", "AveragePool") and node.attributes["ceil_mode"].as_int():
            _without_ceil_mode(node)


def _without_ceil_mode(node: ir.Node) -> None:
    sizes, counts = _spatial(node.inputs[0]), _spatial(node.outputs[0])
    if sizes is None or counts is None:  # only known at run time
        return
    kernel, stride, pads = (
        node.attributes[name].as_ints() for name in ("kernel_shape", "strides", "pads")
    )
    dilation = node.attributes.get_ints("dilations", [1] * len(kernel))
    begins, ends = pads[: len(sizes)], pads[len(sizes) :]
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    reach = [n + b + e for n, b, e in zip(sizes, begins, ends, strict=True)]
    by_onnx = [ceil((r - k) / s) + 1 for r, k, s in zip(reach, extents, stride, strict=True)]
    if by_onnx == counts:
        return
    needed = [(c - 1) * s + k for c, s, k in zip(counts, stride, extents, strict=True)]
    lacking = [max(0, n - r) for n, r in zip(needed, reach, strict=True)]
    if node.op_type == "AveragePool" and any(lacking):
        return
    more = [e + pixels for e, pixels in zip(ends, lacking, strict=True)]
    node.attributes.add(_attribute("ceil_mode", 0))
    node.attributes.add(_attribute("pads", [*begins, *more]))


def _spatial(value: ir.Value | None) -> list[int] | None:
    """The lengths of `(N, C, *size)`'s spatial axes, if the graph says them."""
    shape: Sequence[object] = () if value is None or value.shape is None else value.shape[2:]
    sizes = [length for length in shape if isinstance(length, int)]
    return sizes if sizes and len(sizes) == len(shape) else None


def _attribute(name: str, value: int | list[int]) -> ir.Attr:
    from onnxscript import ir

    return ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrInt64s(name, value)
