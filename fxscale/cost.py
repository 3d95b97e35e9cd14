"""What a convolution costs: exact counts, Eq. 3 in closed form, the bounds of Eq. 4.

The unit is one multiply-accumulate (MAC) for one sample: one multiplication and the addition that
goes with it. Biases, normalisations and activations are not counted, nor are they in the paper.
Taps that fall on padding are counted: the hardware multiplies by those zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Bounds:
    """`low < macs <= high`: Eq. 4 for one convolution."""

    low: float
    high: float

    def __contains__(self, macs: float) -> bool:
        # Without scaling (s = 1) both ends are the count itself, which then counts as inside.
        return self.low < macs <= self.high or self.low == macs == self.high


def conv_macs(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    output_size: Sequence[int],
    *,
    groups: int = 1,
) -> int:
    """Exact MACs of a convolution, in any number of dimensions.

    Every one of the `out_channels * prod(output_size)` outputs sums
    `in_channels / groups * prod(kernel_size)` products. Stride, padding and dilation show only in
    the output size.

    A transposed convolution does the same work seen from its input: pass the size of its *input*
    as `output_size`.
    """
    return in_channels // groups * prod(kernel_size) * prod(output_size) * out_channels


def linear_macs(in_features: int, out_features: int, *, rows: int = 1) -> int:
    """Exact MACs of a linear layer applied to `rows` vectors per sample."""
    return rows * in_features * out_features


def relative_scale(
    kernel_size: Sequence[int], pretrain_kernel_size: Sequence[int]
) -> tuple[float, ...]:
    """The relative resize factor `s = k / k'` of Table 1, per axis."""
    return tuple(k / q for k, q in zip(kernel_size, pretrain_kernel_size, strict=True))


def scale_product(kernel_size: Sequence[int], pretrain_kernel_size: Sequence[int]) -> float:
    """Table 1's `s^2` for kernels of any shape: the product of `k / k'` over the axes.

    For a square kernel in two dimensions it is the square of `relative_scale`.
    """
    return prod(kernel_size) / prod(pretrain_kernel_size)


def eq3_macs(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[float],
    input_size: Sequence[float],
    scale: Sequence[float],
) -> float:
    """Eq. 3 over any number of axes: `M(l, s)`, input and kernel both divided by `s`.

        M = C_in * prod(k / s) * prod(h / s - k / s + 1) * C_out

    Stride 1, no padding, no groups, and real sizes: `k / s` need not be whole. Where it is,
    and `h / s` too, this is `conv_macs` of that convolution.
    """
    macs = float(in_channels * out_channels)
    for k, h, s in zip(kernel_size, input_size, scale, strict=True):
        macs *= k / s * (h / s - k / s + 1)
    return macs


def eq4_bounds(macs: float, scale_product: float) -> Bounds:
    """Eq. 4: what Eq. 3 leaves of `macs` when every axis shrinks by its own `s >= 1`.

        M / s^4 < M(s) <= M / s^2

    with `s^2` the product of the axes' factors (`scale_product`) and `s^4` its square. Per axis,
    `(h - k) / s + 1` lies above `(h - k + 1) / s` and at most at `h - k + 1`, which it reaches when
    the kernel covers the whole input.

    The paper's premise is that a map shrinks by the kernel's own factor. A 1x1 convolution on a map
    that shrinks because of its neighbours falls below `low` for that reason: it saves more.
    """
    return Bounds(low=macs / scale_product**2, high=macs / scale_product)
