"""Constants of the target laid over smaller feature maps, inside the pre-train network.

A tensor that is computed from parameters and buffers alone (a relative position bias, an attention
mask, a grid of coordinates) has the target's size in both networks. Where it meets a feature map,
the pre-train network resizes it by this function.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

Lengths = tuple[tuple[int, ...], ...]
"""For every dimension of a tensor, the lengths of the axes that it is made of."""


def resize_constant(tensor: Tensor, before: Lengths, after: Lengths, nearest: bool) -> Tensor:
    """Resize a tensor along the axes whose length changes; gradients flow back through it.

    **Arguments:**

    - `tensor`: dimension `i` has `product(before[i])` entries: an attention bias over the pixels
        of a 7x7 map has the shape `(heads, 49, 49)` and `before = ((heads,), (7, 7), (7, 7))`.
    - `before`, `after`: lengths of the axes of every dimension.
    - `nearest`: take the nearest entry (masks, indices) instead of interpolating linearly. Both
        take the two grids to be half-pixel centred over one interval, as
        `F.interpolate(align_corners=False)` does, without a low-pass filter.

    **Returns:** a tensor whose dimension `i` has `product(after[i])` entries, in the same dtype.
    """
    flat_before = [n for dim in before for n in dim]
    flat_after = [n for dim in after for n in dim]
    result = tensor.reshape(flat_before)
    for axis, (n_in, n_out) in enumerate(zip(flat_before, flat_after, strict=True)):
        if n_in != n_out:
            result = _nearest(result, axis, n_out) if nearest else _linear(result, axis, n_out)
    return result.reshape([prod(dim) for dim in after])


def _nearest(tensor: Tensor, axis: int, n_out: int) -> Tensor:
    n_in = tensor.shape[axis]
    rows = [(2 * row + 1) * n_in // (2 * n_out) for row in range(n_out)]
    return tensor.index_select(axis, torch.tensor(rows, device=tensor.device))


def _linear(tensor: Tensor, axis: int, n_out: int) -> Tensor:
    moved = tensor.movedim(axis, -1)
    rows = moved.reshape(1, -1, moved.shape[-1])
    resized = F.interpolate(rows, size=n_out, mode="linear", align_corners=False)
    return resized.reshape(*moved.shape[:-1], n_out).movedim(-1, axis)
