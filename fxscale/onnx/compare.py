"""How far two tensors are apart, and how far they may be."""

from __future__ import annotations

import torch
from torch import Tensor

from fxscale.onnx.report import OutputError

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
}
"""Largest error that counts as equal, relative to the largest magnitude of the tensor.

torch and onnxruntime sum in different orders and fuse different operators, so both are right to
within rounding. One layer that sums `n` products rounds by about `sqrt(n) * eps` of its magnitude,
and errors of `L` layers add up like `sqrt(L)`: for `n = 4608` (512 channels of 3 x 3) and
`L = 100` that is 680 eps.

1. float32, eps = 1.2e-7: 8e-5, rounded up to 1e-4.
2. float64, eps = 2.2e-16: 1.5e-13; 1e-9, as some runtimes compute constants in float32 steps.
3. float16, eps = 9.8e-4: sums are kept in float32 by both, so that a layer rounds once, by eps / 2,
   and 100 of them by 10 * eps / 2 = 5e-3; 2e-2 for the elements in the tail.

A layer that is wrong, left out or of another padding shows as 1e-2 to 1 in float32.
"""


def tolerance_of(dtype: torch.dtype) -> float:
    """The tolerance for outputs of a dtype; whole numbers and booleans must be equal."""
    return TOLERANCE.get(dtype, 0.0)


def compare_output(
    found: Tensor, expected: Tensor, *, provider: str, batch: str, batch_size: int, output: str
) -> OutputError:
    """onnxruntime's `found` against torch's `expected`, both on the CPU."""
    absolute, relative, fault = difference(found, expected)
    return OutputError(
        provider=provider,
        batch=batch,
        batch_size=batch_size,
        output=output,
        dtype=str(expected.dtype).removeprefix("torch."),
        absolute=absolute,
        relative=relative,
        tolerance=tolerance_of(expected.dtype),
        top1=_top1_agreement(found, expected) if fault is None else None,
        fault=fault,
    )


def difference(found: Tensor, expected: Tensor) -> tuple[float | None, float | None, str | None]:
    """Largest absolute error, the same relative to the largest magnitude, or why there is none."""
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return None, None, f"found {_described(found)}, torch has {_described(expected)}"
    if expected.numel() == 0:
        return 0.0, 0.0, None
    a, b = found.double(), expected.double()
    finite = torch.isfinite(b)
    # NaN and infinities must be where torch has them; elsewhere they would hide any error.
    if not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()) or not bool(
        torch.isfinite(a[finite]).all()
    ):
        return None, None, "NaN or infinities in other places than torch's"
    if not bool(finite.any()):
        return None, None, "nothing but NaN and infinities: nothing to compare"
    absolute = float((a[finite] - b[finite]).abs().max())
    scale = float(b[finite].abs().max())
    return absolute, absolute / scale if scale else absolute, None


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _top1_agreement(found: Tensor, expected: Tensor) -> float | None:
    """Over dimension 1, the classes of `(N, classes)` and `(N, classes, *size)`."""
    if expected.ndim < 2 or expected.shape[1] < 2 or not expected.is_floating_point():
        return None
    return float((found.argmax(1) == expected.argmax(1)).double().mean())
