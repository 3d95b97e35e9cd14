"""Against a numerical minimisation that knows nothing of the derivation, with torch's own resize.

Images of `large` and `small` pixels, both even or both odd beside their kernels, have their middle
kernel positions over one another.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._least_squares_map import CORRELATION, least_squares

CASES = [(2, 3, 46, 63), (3, 5, 45, 63), (5, 7, 45, 63), (7, 11, 45, 63), (3, 4, 45, 64)]


def middle(size: int, taps: int) -> slice:
    assert (size - taps) % 2 == 0
    return slice((size - taps) // 2, (size + taps) // 2)


def shrinking(large: int, small: int) -> Tensor:
    """`(small, large)`: what torch makes of every single pixel of a line."""
    lines = torch.eye(large, dtype=torch.float64)[:, None, None]
    shrunk = F.interpolate(lines, (1, small), mode="bilinear", antialias=True)
    return shrunk[:, 0, 0].T


def normalised(kernels: Tensor, n_in: int, n_out: int) -> Tensor:
    return kernels / kernels.sum(0) * (n_out / n_in)


@pytest.mark.parametrize(("n_in", "n_out", "small", "large"), CASES)
def test_no_kernel_comes_closer(n_in: int, n_out: int, small: int, large: int) -> None:
    positions = torch.arange(large, dtype=torch.float64)
    covariance = CORRELATION ** (positions[:, None] - positions).abs()
    wanted = shrinking(large, small)[middle(small, n_in)]
    kernels = torch.zeros(n_in, n_out, dtype=torch.float64, requires_grad=True)

    def error() -> Tensor:
        """Mean square difference of the responses, summed over kernels of a single small tap."""
        beyond = (large - n_out) // 2
        difference = F.pad(kernels, (beyond, beyond)) - wanted
        return ((difference @ covariance) * difference).sum()

    search = torch.optim.LBFGS(
        [kernels],
        max_iter=500,
        tolerance_grad=1e-13,
        tolerance_change=0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = error()
        torch.autograd.backward(loss)
        return loss

    search.step(closure)

    expected = normalised(kernels.detach().T, n_in, n_out)
    torch.testing.assert_close(
        least_squares(n_in, n_out, large / small), expected, atol=1e-6, rtol=0
    )


def test_of_a_plane_it_is_the_product_of_two_lines() -> None:
    """2 x 2 to 3 x 3, solved at once on a plane by least squares over its Cholesky factor."""
    n_in, n_out, small, large = 2, 3, 6, 9
    positions = torch.arange(large, dtype=torch.float64)
    line = CORRELATION ** (positions[:, None] - positions).abs()
    root = torch.linalg.cholesky(torch.kron(line, line)).T
    wanted = shrinking(large, small)[middle(small, n_in)]
    pixels = torch.eye(large, dtype=torch.float64)[middle(large, n_out)]

    solved = torch.linalg.lstsq(
        root @ torch.kron(pixels, pixels).T, root @ torch.kron(wanted, wanted).T
    ).solution

    one = least_squares(n_in, n_out, large / small)
    expected = solved / solved.sum(0) * (n_out / n_in) ** 2
    torch.testing.assert_close(torch.kron(one, one), expected)


@pytest.mark.parametrize(("n_in", "n_out"), [(2, 3), (3, 5), (5, 7), (7, 11), (3, 4)])
def test_symmetry_and_sum(n_in: int, n_out: int) -> None:
    operator = least_squares(n_in, n_out, 64 / 46)

    assert operator.shape == (n_out, n_in)
    torch.testing.assert_close(operator.flip(0, 1), operator)
    torch.testing.assert_close(operator.sum(0), torch.full((n_in,), n_out / n_in).double())


def test_the_same_taps_are_the_same_kernel() -> None:
    torch.testing.assert_close(least_squares(3, 3, 1.0), torch.eye(3, dtype=torch.float64))
