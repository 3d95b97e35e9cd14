"""Patches under a window that keeps its size, so that its taps are as fixed as channels.

`F.unfold` puts them in columns, `F.fold` adds the columns up on a map, `Tensor.unfold` gives each
window a dimension of its own. The patches lie on a grid like the output of a convolution of that
geometry, and `fold` lays them back on the map whose size it is given. How often a pixel is covered
depends on the window alone, so that no amplitude changes.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import (
    Annotation,
    Axis,
    Dim,
    Extent,
    Shape,
    Window,
    fixed_dim,
    is_spatial,
)
from fxscale.passes.halos import windows_of
from fxscale.passes.ops.registry import Call, handles, per_axis


@handles(nn.Unfold)
def unfold_module(call: Call) -> Annotation:
    module: Any = call.module
    return _unfold(call, module.kernel_size, module.dilation, module.padding, module.stride)


@handles(F.unfold, params="input kernel_size dilation padding stride")
def unfold(call: Call) -> Annotation:
    return _unfold(
        call,
        call.value("kernel_size"),
        call.value("dilation", 1),
        call.value("padding", 0),
        call.value("stride", 1),
    )


def _unfold(call: Call, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Annotation:
    batch, channels, *spatial = call.dims()
    if is_spatial(channels) or not all(len(dim) == 1 and dim[0].spatial for dim in spatial):
        raise call.refuse("takes patches of something else than a feature map", "unfold a map")
    patches: list[Axis] = []
    for position, dim in enumerate(spatial):
        pad = per_axis(padding, 2)[position]
        patches.append(
            call.annotator.window(
                node=call.node,
                source=dim[0],
                position=position,
                kernel_size=per_axis(kernel_size, 2)[position],
                stride=per_axis(stride, 2)[position],
                padding=(pad, pad),
                dilation=per_axis(dilation, 2)[position],
            )
        )
    taps = per_axis(kernel_size, 2)
    rows: Dim = (*channels, *(Axis(k, spatial=False) for k in taps if k > 1))
    return Shape((batch, rows, tuple(patches)))


@handles(".unfold", params="input dimension size step")
def windows(call: Call) -> Annotation:
    """`(..., L, ...)` becomes `(..., windows, ..., size)`."""
    dims = list(call.dims())
    place = call.value("dimension") % len(dims)
    size, step = call.value("size"), call.value("step")
    source = dims[place]
    if not is_spatial(source):
        dims[place] = fixed_dim(call.result.shape[place])
    elif len(source) > 1:
        raise call.refuse(
            "takes windows out of a flattened feature map", "take them before flattening"
        )
    else:
        blocks = windows_of(call, source[0], size, step)
        if blocks is not None:
            dims[place], window = blocks
            return Shape((*dims, window))
        axis = call.annotator.window(
            node=call.node, source=source[0], position=place - 2, kernel_size=size, stride=step
        )
        dims[place] = (axis,)
    return Shape((*dims, fixed_dim(size)))


@handles(F.fold, params="input output_size kernel_size dilation padding stride")
def fold(call: Call) -> Annotation:
    batch, rows, patches = call.dims()
    sizes = call.annotation("output_size")
    known = sizes if isinstance(sizes, tuple | list) else (None, None)
    arguments = {
        name: per_axis(call.value(name, plain), 2)
        for name, plain in (("kernel_size", 1), ("dilation", 1), ("padding", 0), ("stride", 1))
    }
    if len(patches) != 2 or is_spatial(rows):
        raise call.refuse("folds something else than patches of a map", "fold what was unfolded")
    out: list[Dim] = []
    for position, axis in enumerate(patches):
        geometry = {name: values[position] for name, values in arguments.items()}
        out.append(_map_of(call, axis, known[position], call.result.shape[2 + position], geometry))
    channels = call.result.shape[1]
    if not all(isinstance(size, Extent) for size in known):
        call.annotator.substitute(call.node, tuple(out), argument=call.place("output_size"))
    return Shape((batch, () if channels == 1 else (Axis(channels, spatial=False),), *out))


def _map_of(
    call: Call, patches: Axis, size: Annotation, length: int, geometry: dict[str, int]
) -> Dim:
    """The axis of the map on which patches are laid: the one that they were taken from."""
    if isinstance(size, Extent):
        return size.dim
    for event in reversed(call.annotator.events):
        if isinstance(event, Window) and event.source.target == length:
            found = {
                "kernel_size": event.kernel_size,
                "dilation": event.dilation,
                "padding": event.padding[0],
                "stride": event.stride,
            }
            if found == geometry and event.out.target == patches.target:
                return (event.source,)
    raise call.refuse(
        f"folds onto a map of {length} pixels, which no patches were taken from",
        "give output_size as the shape of a feature map",
    )
