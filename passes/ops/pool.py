"""Pools keep their windows, also where the model computes them from a size. A pool over the whole
map stays global at every size, and an adaptive pool's output scales like a feature map.

A max pool may get another padding: of minus infinity, it hides nothing, and it lets the map before
it be a pixel smaller where convolutions with even kernels would have made it a pixel larger.

A pool along a flattened map runs over its pixels as one row, and leaves a row."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import (
    Annotation,
    Axis,
    Dim,
    Dims,
    Row,
    Shape,
    is_spatial,
    target_length,
)
from fxscale.passes.concatenations import Concatenation
from fxscale.passes.ops.registry import Call, any_node, handles, per_axis
from fxscale.passes.ops.unpool import with_indices

_MAX_LAYERS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MAX_FUNCTIONS = (
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    F.max_pool1d_with_indices,
    F.max_pool2d_with_indices,
    F.max_pool3d_with_indices,
    torch.max_pool1d,
    torch.max_pool2d,
    torch.max_pool3d,
)
_MAX_PARAMS = "input kernel_size stride padding dilation ceil_mode return_indices"
_AVERAGE_PARAMS = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"


@handles(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, *_MAX_LAYERS)
def pool_module(call: Call) -> Annotation:
    module: Any = call.module
    pooled = _pool(
        call,
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=getattr(module, "dilation", 1),
        ceil_mode=module.ceil_mode,
        fits=isinstance(module, nn.AvgPool3d),
        growth=0.0 if getattr(module, "divisor_override", None) is None else 1.0,
        functional=False,
    )
    return with_indices(call, pooled) if getattr(module, "return_indices", False) else pooled


@handles(nn.LPPool1d, nn.LPPool2d, nn.LPPool3d)
def p_norm_pool_module(call: Call) -> Annotation:
    """The p-norm of a window; one that covers the map grows with the p-th root of its pixels."""
    module: Any = call.module
    return _pool(
        call,
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=0,
        dilation=1,
        ceil_mode=module.ceil_mode,
        fits=isinstance(module, nn.LPPool3d),
        growth=1 / module.norm_type,
        functional=False,
    )


@handles(
    F.avg_pool1d,
    F.avg_pool2d,
    F.avg_pool3d,
    torch.avg_pool1d,
    params=_AVERAGE_PARAMS,
)
def average_pool(call: Call) -> Annotation:
    growth = 0.0 if call.value("divisor_override") is None else 1.0
    return _pool_function(call, growth)


@handles(
    F.lp_pool1d,
    F.lp_pool2d,
    F.lp_pool3d,
    params="input norm_type kernel_size stride ceil_mode",
)
def p_norm_pool(call: Call) -> Annotation:
    return _pool_function(call, growth=1 / call.value("norm_type"))


@handles(*_MAX_FUNCTIONS, params=_MAX_PARAMS)
def max_pool(call: Call) -> Annotation:
    return _pool_function(call)


def _pool_function(call: Call, growth: float = 0.0) -> Annotation:
    pooled = _pool(
        call,
        kernel_size=call.value("kernel_size"),
        stride=call.value("stride"),
        padding=call.value("padding", 0) if "padding" in call.params else 0,
        dilation=call.value("dilation", 1) if "dilation" in call.params else 1,
        ceil_mode=call.value("ceil_mode", False),
        fits=call.node.target in (F.avg_pool3d, F.lp_pool3d),
        growth=growth,
        functional=True,
    )
    return with_indices(call, pooled) if isinstance(call.result, tuple) else pooled


def _pool(
    call: Call,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    fits: bool,
    growth: float,
    functional: bool,
) -> Shape:
    """A pool whose result grows with the pixels of a window that covers the map, to this power."""
    dims = call.dims()
    lengths = (call.result[0] if isinstance(call.result, tuple) else call.result).shape[2:]
    rank = len(lengths)
    kernels = per_axis(kernel_size, rank)
    strides = kernels if stride is None or stride == [] else per_axis(stride, rank)
    paddings, dilations = per_axis(padding, rank), per_axis(dilation, rank)
    covered = [
        is_spatial(dim) and length == 1 and kernel >= target_length(dim) > 1 and padding == 0
        for dim, length, kernel, padding in zip(dims[2:], lengths, kernels, paddings, strict=True)
    ]
    adjustable = "pool" if not any(covered) and _may_move(call, dims[2:]) else "none"
    out: list[Dim] = []
    whole = [dim if over else k for dim, over, k in zip(dims[2:], covered, kernels, strict=True)]
    for position, (dim, length) in enumerate(zip(dims[2:], lengths, strict=True)):
        if not is_spatial(dim):
            out.append(() if length == 1 else (Axis(length, spatial=False),))
        elif covered[position]:
            out.append(())
        else:
            window = {
                "node": call.node,
                "position": position,
                "kernel_size": kernels[position],
                "stride": strides[position],
                "padding": (paddings[position], paddings[position]),
                "dilation": dilations[position],
                "ceil_mode": ceil_mode,
                "fits": fits,
                "adjustable": adjustable,
            }
            out.append((_pooled(call, dim, window),))
    if growth:
        summed = [dim for dim, over in zip(dims[2:], covered, strict=True) if over]
        axes = tuple(axis for dim in summed for axis in dim)
        call.annotator.sums_over(call.node, axes, power=growth)
    if not functional:
        if any(covered):
            # One window covers the map, so the stride does not matter.
            call.annotator.substitute(call.node, tuple(whole), attribute="kernel_size")
        return Shape((*dims[:2], *out))
    for name, sizes in (("kernel_size", whole), ("stride", strides)):
        if any_node(call.raw(name)) or (name == "kernel_size" and any(covered)):
            value = tuple(sizes) if rank > 1 else sizes[0]  # F.lp_pool1d takes no tuple
            call.annotator.substitute(call.node, value, argument=call.place(name))
    return Shape((*dims[:2], *out))


def _may_move(call: Call, dims: Dims) -> bool:
    """Whether the padding may change: of a max pool over maps, whose pixels nobody counts."""
    return (
        call.annotator.target_of(call.node) in (*_MAX_LAYERS, *_MAX_FUNCTIONS)
        and isinstance(call.result, torch.Tensor)
        and all(len(dim) == 1 and is_spatial(dim) and not isinstance(dim[0], Row) for dim in dims)
    )


def _pooled(call: Call, dim: Dim, window: dict[str, Any]) -> Axis:
    if len(dim) == 1 and not isinstance(dim[0], Row):
        return call.annotator.window(source=dim[0], **window)
    if not all(axis.spatial and not isinstance(axis, Concatenation) for axis in dim):
        raise call.refuse("pools over a flattened feature map", "pool before flattening")
    return call.annotator.row_window(dim, **window)


@handles(
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
def adaptive_pool_module(call: Call) -> Annotation:
    module: Any = call.module
    dims, sizes = _adaptive(call, module.output_size)
    if sizes is not None:
        call.annotator.substitute(call.node, sizes, attribute="output_size")
    return dims


@handles(
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    torch.adaptive_avg_pool1d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
    params="input output_size",
)
def adaptive_pool(call: Call) -> Annotation:
    dims, sizes = _adaptive(call, call.value("output_size"))
    if sizes is not None:
        call.annotator.substitute(call.node, sizes, argument=call.place("output_size"))
    return dims


def _adaptive(call: Call, output_size: Any) -> tuple[Annotation, tuple[Any, ...] | None]:
    dims = call.dims()
    rank = len(dims) - 2
    out: list[Dim] = []
    sizes: list[Any] = list(per_axis(output_size, rank))
    for position, dim in enumerate(dims[2:]):
        length = call.result.shape[2 + position]
        if sizes[position] is None or (is_spatial(dim) and dim[0].target == length > 1):
            # An output as long as the input is the identity in the target; it stays one.
            out.append(dim)
            sizes[position] = None if sizes[position] is None else dim
        elif length == 1:
            out.append(())
        elif not is_spatial(dim):
            out.append((Axis(length, spatial=False),))
        elif len(dim) > 1:
            raise call.refuse("pools over a flattened feature map", "pool before flattening")
        else:
            axis = call.annotator.refit(call.node, dim[0], length, None, pool=True)
            out.append((axis,))
            sizes[position] = (axis,)
    baked = any(isinstance(size, tuple) for size in sizes)
    return Shape((*dims[:2], *out)), tuple(sizes) if baked else None
