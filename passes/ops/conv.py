"""Convolutions: every call becomes a site, and a window over each of its spatial axes.

Cases along one axis of the kernel:

1. a spatial axis under a kernel: a window whose padding the geometry pass chooses;
2. a kernel as long as the map, without padding: a convolution used as a fully connected layer; the
   kernel follows the map and the axis ends there;
3. a transposed kernel over one pixel, which makes a map that covers the image (the decoder of a
   DCGAN): the kernel is the map;
4. an axis that does not scale (channels under a `Conv1d`, a map of one pixel): the kernel stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import (
    Annotation,
    Axis,
    ComputedWeight,
    ConvSite,
    Dim,
    Row,
    Shape,
    is_spatial,
)
from fxscale.passes.ops.registry import Call, handles, lookup, per_axis
from fxscale.passes.ops.weight_norm import hooked_weight
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import module_path


@dataclass(frozen=True)
class Geometry:
    """The arguments of a convolution, one entry per spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    output_padding: tuple[int, ...]


@handles(
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    params="input",
)
def conv_module(call: Call) -> Annotation:
    module = call.module
    assert isinstance(module, nn.modules.conv._ConvNd)
    name = str(call.node.target)
    computed = None
    if "weight" not in module._parameters or module._forward_pre_hooks:
        computed = hooked_weight(name, module)
        if computed is None:
            raise call.refuse(
                "its weight is computed in a hook",
                "remove the hook before downscale (torch.nn.utils.prune.remove), or use "
                "torch.nn.utils.parametrize",
            )
    if len(call.node.args) > 1 or call.node.kwargs.get("output_size") is not None:
        raise call.refuse("output_size is given at the call", "use output_padding")
    rank = len(module.kernel_size)
    geometry = Geometry(
        stride=module.stride,
        padding=_padding(module.padding, module.kernel_size, module.dilation),
        dilation=module.dilation,
        groups=module.groups,
        transposed=module.transposed,
        output_padding=per_axis(module.output_padding, rank),
    )
    weight = computed.entries[0].key if computed else f"{name}.weight"
    return _convolve(call, name, weight, tuple(module.weight.shape), geometry, computed)


@handles(
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    params="input weight bias stride padding dilation groups",
)
def conv_function(call: Call) -> Annotation:
    return _functional(call, transposed=False)


@handles(
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    params="input weight bias stride padding output_padding groups dilation",
)
def conv_transpose_function(call: Call) -> Annotation:
    return _functional(call, transposed=True)


def weight_of(node: fx.Node) -> fx.Node | None:
    """The weight of a convolution that is called as a function."""
    registration = lookup(node.target) if node.op == "call_function" else None
    if registration is None or registration.handler not in (conv_function, conv_transpose_function):
        return None
    weight = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
    assert isinstance(weight, fx.Node)
    return weight


def _functional(call: Call, *, transposed: bool) -> Annotation:
    weight = weight_of(call.node)
    assert weight is not None
    shape = tuple(weight.meta[VALUE].shape)
    rank = len(shape) - 2
    dilation = per_axis(call.value("dilation", 1), rank)
    geometry = Geometry(
        stride=per_axis(call.value("stride", 1), rank),
        padding=_padding(call.value("padding", 0), shape[2:], dilation),
        dilation=dilation,
        groups=call.value("groups", 1),
        transposed=transposed,
        output_padding=per_axis(call.value("output_padding", 0), rank) if transposed else (0,),
    )
    if weight.op == "get_attr" or call.node in call.annotator.layouts.filters:
        key = str(weight.target) if weight.op == "get_attr" else weight.name
        result = _convolve(call, module_path(call.node) or key, key, shape, geometry)
        if any(call.annotator.convs[-1].tied) and not call.annotator.is_state(weight):
            raise call.refuse(
                "its kernel is a constant of the code and covers the whole map",
                "register the kernel as a buffer, whose size then follows the map",
            )
        return result
    computed = call.annotator.computed_weight(call.node, weight)
    key = weight.name if isinstance(computed, UnsupportedModelError) else computed.entries[0].key
    return _convolve(call, module_path(call.node) or key, key, shape, geometry, computed)


def _padding(
    padding: Any, kernel_size: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Padding as one (before, after) pair per axis; `"same"` puts the odd pixel after."""
    if padding == "valid":
        return ((0, 0),) * len(kernel_size)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in per_axis(padding, len(kernel_size)))


def _convolve(
    call: Call,
    name: str,
    weight: str,
    shape: tuple[int, ...],
    geometry: Geometry,
    computed: ComputedWeight | UnsupportedModelError | None = None,
) -> Annotation:
    dims = call.dims()
    rank = len(shape) - 2
    if len(dims) != rank + 2:
        raise call.refuse(
            f"its input has {len(dims)} dimensions, {rank + 2} with a batch are needed",
            "call it with a batch dimension",
        )
    call.annotator.parts.keep(dims[1])
    if is_spatial(dims[1]):
        raise call.refuse(
            "its input channels are made of spatial axes",
            "put a linear layer over the flattened pixels in its place",
        )
    if weight in call.annotator.layouts.written:
        computed = call.refuse("forward writes into its weight", "compute a new weight")
    call.annotator.unflattened.meets_window(dims[2:])
    kernel_size = shape[2:]
    out: list[Dim] = []
    scales: list[bool] = []
    tied: list[Axis | None] = []
    covered = None if computed else _map_made(call, kernel_size, geometry)
    for position, dim in enumerate(dims[2:]):
        length = call.result.shape[2 + position]
        scales.append(is_spatial(dim) and len(dim) == 1)
        tied.append(None)
        one = kernel_size[position] == 1 and geometry.stride[position] == 1
        if covered is not None and length > 1:
            axis = call.annotator.refit(call.node, covered[position], length, None)
            out.append((axis,))
            tied[-1] = axis
        elif not is_spatial(dim):
            out.append(() if length == 1 else (Axis(length, spatial=False),))
        elif len(dim) > 1:
            if not (one and geometry.padding[position] == (0, 0)):
                raise call.refuse(
                    "a kernel runs over a flattened feature map", "convolve before flattening"
                )
            out.append(dim)
        elif _covers_map(dim[0], kernel_size[position], geometry, position):
            out.append(())
            tied[-1] = dim[0]
        else:
            axis = call.annotator.window(
                node=call.node,
                source=dim[0],
                position=position,
                kernel_size=kernel_size[position],
                stride=geometry.stride[position],
                padding=geometry.padding[position],
                dilation=geometry.dilation[position],
                transposed=geometry.transposed,
                output_padding=geometry.output_padding[position] if geometry.transposed else 0,
                adjustable="conv",
                site=weight,
            )
            out.append((axis,))
    samples = _samples(dims[1], geometry.groups)
    groups = geometry.groups // samples
    inputs, outputs = shape[1] * groups, shape[0] // samples
    if geometry.transposed:
        inputs, outputs = shape[0] // samples, shape[1] * groups
    call.annotator.convs.append(
        ConvSite(
            node=call.node,
            name=name,
            weight=weight,
            operator=f"conv{'_transpose' if geometry.transposed else ''}{rank}d",
            in_channels=inputs,
            out_channels=outputs,
            groups=groups,
            kernel_size=kernel_size,
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            transposed=geometry.transposed,
            inputs=dims[2:],
            outputs=tuple(out),
            scales=tuple(scales),
            tied=tuple(tied),
            computed=computed if isinstance(computed, ComputedWeight) else None,
            obstacle=computed if isinstance(computed, UnsupportedModelError) else None,
        )
    )
    channels: Dim = () if outputs == 1 else (Axis(outputs, spatial=False),)
    if samples > 1:
        channels = dims[1][:1] + channels
    return Shape((dims[0], channels, *out))


def _samples(channels: Dim, groups: int) -> int:
    """How many samples lie in the channels, one a group or more: each has a kernel of its own."""
    batch = channels[0].target if channels and channels[0].batch else 1
    return batch if groups % batch == 0 else 1


def _map_made(
    call: Call, kernel_size: Sequence[int], geometry: Geometry
) -> tuple[Axis, ...] | None:
    """The image's axes, where one pixel becomes a map over it, every tap of the kernel a pixel."""
    over_a_pixel = geometry.transposed and not any(call.dims()[2:])
    if not over_a_pixel or tuple(call.result.shape[2:]) != tuple(kernel_size):
        return None
    plain = not any(map(any, geometry.padding)) and max(geometry.dilation) == 1
    return call.annotator.unflattened.image_axes(len(kernel_size)) if plain else None


def _covers_map(axis: Axis, kernel_size: int, geometry: Geometry, position: int) -> bool:
    return (
        not geometry.transposed
        and not isinstance(axis, Row)
        and kernel_size == axis.target > 1
        and geometry.padding[position] == (0, 0)
        and geometry.dilation[position] == 1
    )
