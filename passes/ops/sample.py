"""Sampling at computed places, as spatial transformers and optical flow do.

Places are counted from -1 to 1 over the image, whatever its size: a grid means the same in both
networks. The sampled map has the axes of the grid.
"""

from __future__ import annotations

import torch.nn.functional as F

from fxscale.passes.axes import Annotation, Axis, Extent, Shape
from fxscale.passes.ops.registry import Call, handles


@handles(F.affine_grid, params="theta size align_corners")
def affine_grid(call: Call) -> Annotation:
    sizes = call.annotation("size")
    _, _, *lengths = sizes if isinstance(sizes, tuple | list) else (None, None, None)
    out = tuple(length.dim for length in lengths if isinstance(length, Extent))
    if len(out) < len(lengths):
        raise call.refuse(
            "makes a grid of a size that is no feature map's",
            "pass the size of a feature map, such as x.size()",
        )
    return Shape((call.dims("theta")[0], *out, (Axis(len(out), spatial=False),)))


@handles(F.grid_sample, params="input grid mode padding_mode align_corners")
def grid_sample(call: Call) -> Annotation:
    batch, channels, *_ = call.dims()
    _, *out, _ = call.dims("grid")
    return Shape((batch, channels, *out))
