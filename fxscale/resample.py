"""Resampling of weights: what an upscaled kernel is made of, as small dense matrices.

Every map between the two networks is linear and separable. Along each resized axis it is a
`(n_out, n_in)` matrix in closed form, so it can be inverted, squared entry by entry and tested
against brute force. Three choices are made here, all others elsewhere:

1. growing an axis interpolates (Eq. 5 of the paper: the stretched kernel is sampled anew;
   cubically by default, where the paper does so linearly);
2. shrinking an axis takes the least-squares inverse of growing it back, so that shrinking undoes
   growing and the other way round keeps the representable kernel closest to the given one;
3. the amplitude is corrected by `product(n_in / n_out)`: a kernel with more taps sums more.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from fxscale.errors import FxscaleError, StateMismatchError
from fxscale.plan import StateMap

Interpolation = Literal["bilinear", "bicubic"]
DEFAULT_INTERPOLATION: Interpolation = "bicubic"
"""The paper's is bilinear, which blurs kernels and keeps less accuracy: docs/experiments.md."""
Init = Literal["fan", "resample"]
Kernel = tuple[Tensor, StateMap]
"""A kernel and its map, for the gain that stands for its amplitude."""
Operators = dict[int, Tensor]
"""Axis of a tensor -> the `(n_out, n_in)` matrix applied along it."""

_CUBIC_A = -0.75  # the constant of torch.nn.functional.interpolate


def interpolation_operator(n_in: int, n_out: int, interpolation: Interpolation) -> Tensor:
    """Matrix `(n_out, n_in)`, float64, that interpolates `n_in` samples at `n_out` positions.

    Both grids are half-pixel centred and cover the same interval (`align_corners=False`); borders
    are clamped, and nothing is low-pass filtered (`antialias=False`). Rows sum to one. Example:
    2 -> 3 bilinear is `[[1, 0], [1/2, 1/2], [0, 1]]`.
    """
    if interpolation not in ("bilinear", "bicubic"):
        raise FxscaleError(f"interpolation is 'bilinear' or 'bicubic', not {interpolation!r}")
    operator = torch.zeros(n_out, n_in, dtype=torch.float64)
    for row in range(n_out):
        # The position of sample `row` on the input grid is (row + 1/2) * n_in / n_out - 1/2, here
        # split exactly into whole and fractional part.
        whole, rest = divmod((2 * row + 1) * n_in - n_out, 2 * n_out)
        fraction = rest / (2 * n_out)
        taps = _linear_taps(fraction) if interpolation == "bilinear" else _cubic_taps(fraction)
        for offset, weight in taps.items():
            operator[row, min(max(whole + offset, 0), n_in - 1)] += weight
    return operator


def _linear_taps(fraction: float) -> dict[int, float]:
    return {0: 1 - fraction, 1: fraction}


def _cubic_taps(fraction: float) -> dict[int, float]:
    def near(x: float) -> float:
        return ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1

    def far(x: float) -> float:
        return ((_CUBIC_A * x - 5 * _CUBIC_A) * x + 8 * _CUBIC_A) * x - 4 * _CUBIC_A

    return {
        -1: far(fraction + 1),
        0: near(fraction),
        1: near(1 - fraction),
        2: far(2 - fraction),
    }


def resize_operator(n_in: int, n_out: int, interpolation: Interpolation) -> Tensor:
    """Matrix `(n_out, n_in)`, float64: interpolation if the axis grows, else its pseudo-inverse.

    For `n_out < n_in` it is the least-squares inverse of growing `n_out` to `n_in`:
    `resize_operator(m, n) @ resize_operator(n, m)` is the identity for every `n <= m`.
    """
    if n_out >= n_in:
        return interpolation_operator(n_in, n_out, interpolation)
    inverse: Tensor = torch.linalg.pinv(interpolation_operator(n_out, n_in, interpolation))
    return inverse


def fan_operator(n_in: int, n_out: int) -> Tensor:
    """Matrix `(n_out, n_in)`, float64, `n_out <= n_in`: the co-isometry nearest to area averaging.

    1. Its rows are orthonormal: independent weights of one variance stay so.
    2. Its columns all sum to `sqrt(n_out / n_in)`, and its rows to the inverse: times
       `sqrt(n_in / n_out)`, it keeps the sum of every kernel, and constant kernels constant.

    Both hold together because area averaging maps constants to constants in both directions.
    Example: 3 -> 2 is `[[0.91, 0.41, -0.09], [-0.09, 0.41, 0.91]]`.
    """
    overlap = torch.zeros(n_out, n_in, dtype=torch.float64)
    for row in range(n_out):
        for column in range(n_in):
            start, end = (
                max(row * n_in, column * n_out),
                min((row + 1) * n_in, (column + 1) * n_out),
            )
            overlap[row, column] = max(0, end - start)
    left, _, right = torch.linalg.svd(overlap, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest


def apply_operators(tensor: Tensor, operators: Operators, gain: float = 1.0) -> Tensor:
    """Apply one matrix along each of the given axes, then multiply by `gain`.

    **Arguments:**

    - `tensor`: any rank, any strides; floating point if there is anything to apply.
    - `operators`: axis -> matrix `(n_out, n_in)`; `n_in` is the tensor's length there.

    **Returns:** a fresh tensor of the same dtype on the same device, computed in float32 (float64
    for float64).
    """
    if not operators:
        return tensor.detach().clone()
    result = tensor.detach().to(_precision(tensor))
    # Axes that shrink come first: the least work for the others.
    for axis, operator in sorted(operators.items(), key=lambda item: _growth(item[1])):
        result = _apply_along(result, axis, operator)
    return result.mul_(gain).to(tensor.dtype)


def _precision(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _apply_along(tensor: Tensor, axis: int, operator: Tensor) -> Tensor:
    """Weighted sums of slices, not a matrix product: autocast and TF32 would round the latter."""
    n_out, _ = operator.shape
    shape = list(tensor.shape)
    shape[axis] = n_out
    result = tensor.new_zeros(shape)
    for row, weights in enumerate(operator.tolist()):
        for column, weight in enumerate(weights):
            if weight != 0:
                result.select(axis, row).add_(tensor.select(axis, column), alpha=weight)
    return result


def _growth(operator: Tensor) -> float:
    return operator.shape[0] / operator.shape[1]


def upscale_entry(
    tensor: Tensor,
    state_map: StateMap,
    interpolation: Interpolation = DEFAULT_INTERPOLATION,
    *,
    squared: bool = False,
    kernel: Kernel | None = None,
) -> Tensor:
    """One entry of the pre-train network's state as the target's (Eq. 5 and 6, section 3.3.2).

    **Arguments:**

    - `tensor`: shape `state_map.pretrain_shape`; its dtype and device are kept.
    - `interpolation`: `"bicubic"` or `"bilinear"` (the paper's). Entries of kind `"feature"` are
      always bilinear: cubic overshoot could turn a running variance negative.
    - `squared`: use the square of every coefficient of the map. If the entry's elements were
      independent with these second moments, the result holds the second moments of their image
      under the map itself: what Adam's `exp_avg_sq` needs.
    - `kernel`: for entries of kind `"gain"`, the pre-train network's entry `state_map.of`, and its
      map: the gain follows the kernel's norm.

    **Returns:** a fresh tensor of shape `state_map.target_shape`.
    """
    if state_map.kind == "gain":
        before, kernel_map = _kernel_of(state_map, kernel)
        after = upscale_entry(before, kernel_map, interpolation)
        factor = norm_growth(before, kernel_map.pretrain_view, after, kernel_map, state_map)
        return _times(tensor, factor.square() if squared else factor, state_map)
    if state_map.parts:
        viewed = tensor.reshape(state_map.pretrain_view)
        axis = state_map.parts_axis
        pieces = torch.split(viewed, [part.pretrain_shape[axis] for part in state_map.parts], axis)
        large = [
            upscale_entry(piece, part, interpolation, squared=squared)
            for piece, part in zip(pieces, state_map.parts, strict=True)
        ]
        return torch.cat(large, axis).reshape(state_map.target_shape)
    method: Interpolation = "bilinear" if state_map.kind == "feature" else interpolation
    axes = _resized_axes(state_map.pretrain_view, state_map.target_view)
    operators = {axis: resize_operator(n_in, n_out, method) for axis, n_in, n_out in axes}
    gain = state_map.gain
    if squared:
        operators = {axis: operator.square() for axis, operator in operators.items()}
        gain = gain**2
    _require_floating(tensor, state_map, resized=bool(axes))
    viewed = tensor.reshape(state_map.pretrain_view)
    result = apply_operators(viewed, operators, gain).reshape(state_map.target_shape)
    return _unit(result) if state_map.kind == "direction" and axes else result


def downscale_entry(
    tensor: Tensor, state_map: StateMap, init: Init, kernel: Kernel | None = None
) -> Tensor:
    """One entry of the target's state as the pre-train network's first value.

    **Arguments:**

    - `tensor`: shape `state_map.target_shape`; its dtype and device are kept.
    - `init`: for kernels and interface weights,
      `"fan"` is `sqrt(product(k / k'))` times a co-isometry (`fan_operator`), so that a freshly
      initialised network keeps its fan-in variance, `var(w') * product(k') = var(w) * product(k)`,
      and every kernel its sum, which is its response to smooth images;
      `"resample"` is the least-squares inverse of `upscale_entry` as it is by default: exact on
      upscaled weights, and otherwise the pre-train kernel whose upscaling is closest to the
      given one.
      Entries of kind `"feature"` are interpolated, amplitude untouched, under both. Entries of
      kind `"gain"` are copied under `"fan"`, so that a kernel keeps its norm.
    - `kernel`: for entries of kind `"gain"`, the target's entry `state_map.of`, and its map.

    **Returns:** a fresh tensor of shape `state_map.pretrain_shape`.
    """
    if state_map.kind == "gain":
        if init == "fan":
            return tensor.detach().clone()
        before, kernel_map = _kernel_of(state_map, kernel)
        after = downscale_entry(before, kernel_map, init)
        return _times(
            tensor,
            1 / norm_growth(after, kernel_map.pretrain_view, before, kernel_map, state_map),
            state_map,
        )
    if state_map.parts:
        viewed = tensor.reshape(state_map.target_view)
        axis = state_map.parts_axis
        pieces = torch.split(viewed, [part.target_shape[axis] for part in state_map.parts], axis)
        small = [downscale_entry(p, m, init) for p, m in zip(pieces, state_map.parts, strict=True)]
        return torch.cat(small, axis).reshape(state_map.pretrain_shape)
    axes = _resized_axes(state_map.target_view, state_map.pretrain_view)
    _require_floating(tensor, state_map, resized=bool(axes))
    if state_map.kind == "feature":
        operators = {axis: interpolation_operator(n, m, "bilinear") for axis, n, m in axes}
        gain = 1.0
    elif init == "fan":
        operators = {axis: fan_operator(n_in, n_out) for axis, n_in, n_out in axes}
        gain = sqrt(1 / state_map.gain)
    elif init == "resample":
        operators = {axis: resize_operator(n, m, DEFAULT_INTERPOLATION) for axis, n, m in axes}
        gain = 1 / state_map.gain
    else:
        raise FxscaleError(f"init is 'fan' or 'resample', not {init!r}")
    viewed = tensor.reshape(state_map.target_view)
    result = apply_operators(viewed, operators, gain).reshape(state_map.pretrain_shape)
    return _unit(result) if state_map.kind == "direction" and axes else result


def norm_growth(
    small: Tensor,
    small_view: tuple[int, ...],
    large: Tensor,
    kernel_map: StateMap,
    gain_map: StateMap,
) -> Tensor:
    """How many times larger the norm of a kernel is at the target's size, per number of its gain.

    The norm is taken over the dimensions in which the gain has length one; of the kernel minus its
    mean there, if the gain stands for its spread. Where a kernel is zero, the growth is that of a
    constant kernel, `sqrt(product(k' / k))`.
    """

    def norm(kernel: Tensor, view: tuple[int, ...]) -> Tensor:
        values = kernel.detach().to(_precision(kernel)).reshape(view)
        over = [axis for axis, length in enumerate(gain_map.target_view) if length == 1]
        if gain_map.centred:
            values = values - values.mean(over, keepdim=True)
        result: Tensor = torch.linalg.vector_norm(values, dim=over, keepdim=True)
        return result

    before, after = norm(small, small_view), norm(large, kernel_map.target_view)
    usual = torch.full_like(after, sqrt(kernel_map.gain))
    return torch.where((before > 0) & (after > 0), after / before, usual)


def _times(tensor: Tensor, factor: Tensor, state_map: StateMap) -> Tensor:
    viewed = tensor.detach().to(_precision(tensor)).reshape(state_map.target_view)
    return (viewed * factor).reshape(state_map.target_shape).to(tensor.dtype)


def _unit(tensor: Tensor) -> Tensor:
    return torch.nn.functional.normalize(tensor, dim=0)


def _kernel_of(gain_map: StateMap, kernel: Kernel | None) -> Kernel:
    if kernel is None or kernel[1].key != gain_map.of:
        raise StateMismatchError(
            f"{gain_map.key!r} is the amplitude of {gain_map.of!r}, which is not at hand: map the "
            "whole state with upscale_state"
        )
    return kernel


def _resized_axes(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """`(axis, n_before, n_after)` of the axes whose length changes."""
    lengths = enumerate(zip(before, after, strict=True))
    return [(axis, n_in, n_out) for axis, (n_in, n_out) in lengths if n_in != n_out]


def _require_floating(tensor: Tensor, state_map: StateMap, *, resized: bool) -> None:
    if resized and not tensor.is_floating_point():
        raise StateMismatchError(
            f"{state_map.key!r} is resized from {state_map.pretrain_shape} to "
            f"{state_map.target_shape}: expected a floating-point tensor, found {tensor.dtype}"
        )
