"""Operators that lay a feature map on another grid: interpolation, pixel shuffle."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import Annotation, Axis, Extent, Shape
from fxscale.passes.ops.registry import Call, handles, per_axis


@handles(nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
def upsample(call: Call) -> Annotation:
    assert isinstance(call.module, nn.Upsample)
    return _resize(call, call.module.size, None, call.module.scale_factor, attribute="size")


@handles(F.interpolate, F.upsample, params="input size scale_factor mode align_corners")
def interpolate(call: Call) -> Annotation:
    size = call.raw("size")
    return _resize(call, size, call.annotation("size"), call.value("scale_factor"), attribute=None)


def _resize(
    call: Call, size: object, extents: Annotation, scale: object, *, attribute: str | None
) -> Annotation:
    batch, channels, *spatial = call.dims()
    rank = len(spatial)
    call.annotator.unflattened.meets_window(spatial)
    lengths = call.result.shape[2:]
    out: list[tuple[Axis, ...]] = []
    for index, dim in enumerate(spatial):
        if len(dim) > 1 or (dim and not dim[0].spatial):
            raise call.refuse("resizes a dimension that is not one spatial axis", "resize maps")
        known = extents[index] if isinstance(extents, tuple | list) else extents
        if isinstance(known, Extent):
            out.append(known.dim)  # `size=y.shape[2:]`: y's axes, whatever their length
        elif not dim and lengths[index] == 1:
            out.append(dim)
        elif not dim:
            out.append((_over_the_image(call, index, rank, scale, lengths[index]),))
        else:
            factor = None if scale is None else float(per_axis(scale, rank)[index])
            out.append((call.annotator.refit(call.node, dim[0], lengths[index], factor),))
    if size is not None and scale is None and not _dynamic(extents):
        if attribute is not None:
            call.annotator.substitute(call.node, tuple(out), attribute=attribute)
        else:
            call.annotator.substitute(call.node, tuple(out), argument=call.place("size"))
    return Shape((batch, channels, *out))


def _over_the_image(call: Call, index: int, rank: int, scale: object, length: int) -> Axis:
    """A single pixel spread over a map of a given length, which covers the image as it does."""
    images = call.annotator.unflattened.image_axes(rank)
    if scale is not None or images is None:
        raise call.refuse("resizes a map of one pixel", "broadcast it instead")
    return call.annotator.refit(call.node, images[index], length, None)


def _dynamic(extents: Annotation) -> bool:
    items = extents if isinstance(extents, tuple | list) else (extents,)
    return any(isinstance(item, Extent) for item in items)


@handles(nn.PixelUnshuffle, F.pixel_unshuffle, params="input downscale_factor")
def pixel_unshuffle(call: Call) -> Annotation:
    """Space to depth: blocks of `factor` pixels along each axis, which become channels."""
    batch, _, *spatial = call.dims()
    factor = (
        call.module.downscale_factor
        if isinstance(call.module, nn.PixelUnshuffle)
        else call.value("downscale_factor")
    )
    out: list[tuple[Axis, ...]] = []
    for dim in spatial:
        if len(dim) != 1 or not dim[0].spatial:
            raise call.refuse("takes apart a dimension that is not one spatial axis", "use maps")
        lengths = (dim[0].target // factor, factor)
        blocks, pixels = call.annotator.parts.split(call.node, dim[0], lengths, (False, True))
        call.annotator.parts.keep((pixels,))
        out.append((blocks,))
    return Shape((batch, (Axis(call.result.shape[1], spatial=False),), *out))


@handles(nn.PixelShuffle, F.pixel_shuffle, params="input upscale_factor")
def pixel_shuffle(call: Call) -> Annotation:
    batch, _, *spatial = call.dims()
    factor = (
        call.module.upscale_factor
        if isinstance(call.module, nn.PixelShuffle)
        else call.value("upscale_factor")
    )
    length = call.result.shape[1]
    out: list[tuple[Axis, ...]] = []
    for dim in spatial:
        if len(dim) != 1 or not dim[0].spatial:
            raise call.refuse("shuffles into a dimension that is not one spatial axis", "use maps")
        axis = dim[0]
        out.append((call.annotator.refit(call.node, axis, axis.target * factor, float(factor)),))
    reduced = () if length == 1 else (Axis(length, spatial=False),)
    return Shape((batch, reduced, *out))
