"""Lengths behind windows: convolutions, pools, strided slices and pads, along one axis."""

from __future__ import annotations

from typing import Any

POINTWISE: dict[str, Any] = {
    "kernel_size": 1,
    "stride": 1,
    "padding": (0, 0),
    "dilation": 1,
    "ceil_mode": False,
    "transposed": False,
    "output_padding": 0,
}


def window_arguments(fields: dict[str, Any]) -> dict[str, Any]:
    """Those of a window's fields that decide its length, without what has no effect."""
    arguments = {name: fields[name] for name in POINTWISE if name in fields}
    if arguments.get("kernel_size") == 1:
        arguments.pop("dilation", None)  # without a second tap there is nothing to dilate
    return arguments


def window_length(
    length: int,
    kernel_size: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
    ceil_mode: bool = False,
    transposed: bool = False,
    output_padding: int = 0,
) -> int:
    """Length of a convolution's or pool's output, as `torch.nn` documents it; below 1 if none."""
    span = dilation * (kernel_size - 1)
    if transposed:
        return (length - 1) * stride - sum(padding) + span + output_padding + 1
    room = length + sum(padding) - span - 1
    if not ceil_mode:
        return room // stride + 1 if room >= 0 else 0
    out = -(-room // stride) + 1
    # torch drops a last window that would start inside the trailing padding.
    return out - 1 if (out - 1) * stride >= length + padding[0] else out
