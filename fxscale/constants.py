"""Constants of the target laid over smaller feature maps, inside the pre-train network.

A tensor that is computed from parameters and buffers alone (a relative position bias, an attention
mask, a grid of coordinates) has the target's size in both networks. Where it meets a feature map,
the pre-train network resizes it by this function.
"""

from __future__ import annotations

from math import prod
from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Axes = tuple[tuple[int, ...], ...]
"""The lengths of the axes that several dimensions, or several parts of one, are made of."""

Lengths = tuple[tuple[int, ...] | Axes, ...]
"""For every dimension of a tensor, the lengths of its axes; where parts lie one behind the other
along it (a class token and pixels), those of every part."""


def resize_constant(tensor: Tensor, before: Lengths, after: Lengths, nearest: bool) -> Tensor:
    """Resize a tensor along the axes whose length changes; gradients flow back through it.

    **Arguments:**

    - `tensor`: dimension `i` has `product(before[i])` entries: an attention bias over the pixels
        of a 7x7 map has the shape `(heads, 49, 49)` and `before = ((heads,), (7, 7), (7, 7))`.
        Parts that lie one behind the other are resized on their own: positions of a class token
        and the 7x7 map, `(50, channels)`, have `before = (((1,), (7, 7)), (channels,))`.
    - `before`, `after`: lengths of the axes of every dimension. One for which they are equal stays,
        however long it is: it may count the samples of a batch.
    - `nearest`: take the nearest entry (masks, indices) instead of interpolating linearly. Both
        take the two grids to be half-pixel centred over one interval, as
        `F.interpolate(align_corners=False)` does, without a low-pass filter.

    **Returns:** a tensor whose dimension `i` has `product(after[i])` entries, in the same dtype.
    """
    for index, (large, small) in enumerate(zip(before, after, strict=True)):
        if large != small and _is_parts(large) and _is_parts(small):
            pieces = tensor.split_with_sizes([prod(part) for part in large], dim=index)
            resized = [
                resize_constant(piece, _at(before, index, p), _at(after, index, q), nearest)
                for piece, p, q in zip(pieces, large, small, strict=True)
            ]
            return torch.cat(resized, dim=index)
    return _resize(tensor, cast(Axes, before), cast(Axes, after), nearest)


def _resize(tensor: Tensor, before: Axes, after: Axes, nearest: bool) -> Tensor:
    pairs = [
        (large, small) if large != small else ((length,), (length,))
        for length, large, small in zip(tensor.shape, before, after, strict=True)
    ]
    flat_before = [n for large, _ in pairs for n in large]
    flat_after = [n for _, small in pairs for n in small]
    result = tensor.reshape(flat_before)
    for axis, (n_in, n_out) in enumerate(zip(flat_before, flat_after, strict=True)):
        if n_in != n_out:
            result = _nearest(result, axis, n_out) if nearest else _linear(result, axis, n_out)
    return result.reshape([prod(small) for _, small in pairs])


def _is_parts(dim: tuple[int, ...] | Axes) -> TypeGuard[Axes]:
    return any(isinstance(part, tuple) for part in dim)


def _at(lengths: Lengths, index: int, dim: tuple[int, ...]) -> Lengths:
    return (*lengths[:index], dim, *lengths[index + 1 :])


def _nearest(tensor: Tensor, axis: int, n_out: int) -> Tensor:
    n_in = tensor.shape[axis]
    rows = [(2 * row + 1) * n_in // (2 * n_out) for row in range(n_out)]
    return tensor.index_select(axis, torch.tensor(rows, device=tensor.device))


def _linear(tensor: Tensor, axis: int, n_out: int) -> Tensor:
    moved = tensor.movedim(axis, -1)
    rows = moved.reshape(1, -1, moved.shape[-1])
    resized = F.interpolate(rows, size=n_out, mode="linear", align_corners=False)
    return resized.reshape(*moved.shape[:-1], n_out).movedim(-1, axis)
