"""How far two tensors are apart, and how far they may be."""

from __future__ import annotations

import torch
from torch import Tensor

from fxscale.onnx.report import OutputError

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
}
"""Largest error that counts as equal, relative to the largest magnitude of the output.

torch and onnxruntime sum in different orders and fuse different operators, so both are right to
within rounding: that is, to within some multiple of `eps`, the spacing of the dtype at 1.

1. float32, eps = 1.2e-7: 1e-5 is 84 eps. Well-conditioned networks stay below 2e-6, the ones of 50
   and more layers below 1e-5; a BatchNorm with `eps=1e-3` for `1e-5` is off by 5e-4.
2. float16, eps = 9.8e-4: both keep sums in float32, so that a layer rounds once, by eps / 2, and 50
   layers by sqrt(50) * eps / 2 = 3.5e-3; 5e-3 is 5 eps.
3. float64, eps = 2.2e-16: 1e-9, for onnxruntime computes some functions by float32 polynomials.

A network may amplify rounding, as deep ones with fresh weights do. Where an output is further off
than this, torch's own rounding error is measured against float64, see `widened`.
"""

LARGEST_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-1}
"""No amount of rounding in torch excuses more: a wrong layer shows as 1e-2 to 1 in float32."""

_ROUNDINGS = 10.0


def tolerance_of(dtype: torch.dtype) -> float:
    """The tolerance for outputs of a dtype; whole numbers and booleans must be equal."""
    return TOLERANCE.get(dtype, 0.0)


def widened(dtype: torch.dtype, rounding: float) -> float:
    """The tolerance for an output that torch itself gets wrong by `rounding`, a relative error.

    Ten times that error: onnxruntime may be as unlucky as torch, and the largest of few elements
    is a noisy measure. Never less than `TOLERANCE`, never more than `LARGEST_TOLERANCE`.
    """
    least = tolerance_of(dtype)
    return max(least, min(_ROUNDINGS * rounding, LARGEST_TOLERANCE.get(dtype, least)))


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
