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
        if node.op_type in ("MaxPool", "AveragePool") and node.attributes.get_int("ceil_mode"):
            _without_ceil_mode(node)


def _without_ceil_mode(node: ir.Node) -> None:
    from onnxscript import ir

    sizes, counts = _spatial(node.inputs[0]), _spatial(node.outputs[0])
    if sizes is None or counts is None:  # only known at run time
        return
    rank = len(sizes)
    kernel = node.attributes["kernel_shape"].as_ints()
    stride = node.attributes.get_ints("strides", [1] * rank)
    dilation = node.attributes.get_ints("dilations", [1] * rank)
    pads = node.attributes.get_ints("pads", [0] * 2 * rank)
    begins, ends = pads[:rank], pads[rank:]
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
    node.attributes.add(ir.AttrInt64("ceil_mode", 0))
    node.attributes.add(ir.AttrInt64s("pads", [*begins, *more]))


def _spatial(value: ir.Value | None) -> list[int] | None:
    """The lengths of `(N, C, *size)`'s spatial axes, if the graph says them."""
    shape: Sequence[object] = () if value is None or value.shape is None else value.shape[2:]
    sizes = [length for length in shape if isinstance(length, int)]
    return sizes if sizes and len(sizes) == len(shape) else None
