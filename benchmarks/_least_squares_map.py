"""The kernel whose response on the large image is, on natural images, closest to the small one's.

Let `x` be a line of the large image and `y` the same line shrunk by the ratio `r` of the two image
sizes, with the kernels' centres at one place. The small kernel `w'` has its taps `r` pixels of the
large image apart; what it sees there is `y = H x`: pixels averaged by a triangle of half-width `r`
around each tap, as the antialiased bilinear resizing of the images does. The large kernel `w` sees
`n_out` pixels, `E x`. Over images of mean zero and covariance `C`,

    mean of (w . E x - w' . H x)^2  =  (E^T w - H^T w')^T C (E^T w - H^T w')

is least where its gradient `2 E C (E^T w - H^T w')` vanishes:

    w = A w',    A = (E C E^T)^-1 (E C H^T),

the covariance of the pixels under the large kernel, inverted, times theirs with what the small
kernel sees. `C` is that of a first-order autoregressive process, `C_ij = rho^|i - j|`, with
`rho = 0.95` between neighbours of the large image, the usual model of a line of a photograph; that
feature maps follow it too is taken for granted. A covariance `rho^|dx| rho^|dy|` of a plane is the
Kronecker product of two such lines, and so are `E` and `H`; hence the best map of the plane is `A`
along rows and `A` along columns.

The images' mean is not zero, and BatchNorm minds it: columns are scaled to one sum in the end, as
for the other maps, so that a constant image keeps its response. They nearly have it.

What this map knows and interpolation does not: how wide a pixel of the small image is. A small
kernel sees beyond its outermost taps, also beyond the large kernel's; what it sees there, the large
kernel's taps stand in for as well as neighbours predict it.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

CORRELATION = 0.95


def least_squares(n_in: int, n_out: int, ratio: float) -> Tensor:
    """`(n_out, n_in)`, float64, columns of sum `n_out / n_in`; `ratio` is that of the images."""
    small_taps = (torch.arange(n_in, dtype=torch.float64) - (n_in - 1) / 2) * ratio
    large_taps = torch.arange(n_out, dtype=torch.float64) - (n_out - 1) / 2
    reach = ceil(float(small_taps[-1]) + ratio)  # pixels that a small kernel sees beyond its centre
    pixels = torch.arange(-reach, reach + 1, dtype=torch.float64) + (n_out - 1) % 2 / 2
    seen = (1 - (pixels - small_taps[:, None]).abs() / ratio).clamp(min=0)
    seen /= seen.sum(1, keepdim=True)
    under_large = _covariance(large_taps, large_taps)
    with_small = _covariance(large_taps, pixels) @ seen.T
    operator: Tensor = torch.linalg.solve(under_large, with_small)
    return operator / operator.sum(0) * (n_out / n_in)


def _covariance(one: Tensor, other: Tensor) -> Tensor:
    covariance: Tensor = CORRELATION ** (one[:, None] - other).abs()
    return covariance
