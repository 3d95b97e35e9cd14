from __future__ import annotations

import pytest
import torch

from fxscale.onnx.compare import compare_output, difference, tolerance_of, widened

NAN, INF = float("nan"), float("inf")


def test_errors_are_absolute_and_relative_to_the_largest_magnitude() -> None:
    expected = torch.tensor([[1.0, -4.0], [0.0, 2.0]])
    found = torch.tensor([[1.0, -4.0], [0.5, 2.25]])
    assert difference(found, expected) == (0.5, 0.125, None)
    assert difference(expected, expected) == (0.0, 0.0, None)


def test_zeros_have_no_scale() -> None:
    assert difference(torch.full((3,), 0.25), torch.zeros(3)) == (0.25, 0.25, None)
    assert difference(torch.zeros(0, 3), torch.zeros(0, 3)) == (0.0, 0.0, None)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([NAN, 1.0], [1.0, 1.0]),
        ([1.0, 1.0], [NAN, 1.0]),
        ([INF, 1.0], [-INF, 1.0]),
        ([INF, 1.0], [1.0, 1.0]),
        ([NAN, 1.0], [INF, 1.0]),
    ],
)
def test_what_is_not_finite_must_be_where_torch_has_it(
    found: list[float], expected: list[float]
) -> None:
    _, relative, fault = difference(torch.tensor(found), torch.tensor(expected))
    assert (relative, fault) == (None, "NaN or infinities in other places than torch's")


def test_infinities_in_the_same_places_do_not_hide_an_error() -> None:
    expected = torch.tensor([INF, -INF, NAN, 2.0])
    assert difference(expected, expected) == (0.0, 0.0, None)
    found = torch.tensor([INF, -INF, NAN, 3.0])
    assert difference(found, expected) == (1.0, 0.5, None)


def test_nothing_but_nan_proves_nothing() -> None:
    nothing = torch.full((2,), NAN)
    _, relative, fault = difference(nothing, nothing)
    assert relative is None
    assert fault is not None
    assert "nothing to compare" in fault


def test_shapes_and_dtypes_must_agree() -> None:
    message = "found float32 (2, 1), torch has float32 (1, 2)"
    assert difference(torch.ones(2, 1), torch.ones(1, 2)) == (None, None, message)
    _, _, fault = difference(torch.ones(2).half(), torch.ones(2))
    assert fault == "found float16 (2,), torch has float32 (2,)"


def compared(found: torch.Tensor, expected: torch.Tensor) -> tuple[bool, float | None]:
    error = compare_output(found, expected, provider="p", batch="random", batch_size=1, output="y")
    return error.equal, error.top1


def test_equal_up_to_the_tolerance_of_the_dtype() -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9), (torch.float16, 5e-3)):
        assert tolerance_of(dtype) == tolerance
        expected = torch.tensor([1.0, 0.5], dtype=dtype)
        for factor, equal in ((0.5, True), (2.0, False)):
            found = expected + torch.tensor([0.0, factor * tolerance], dtype=dtype)
            assert compared(found, expected)[0] is equal


def test_tolerance_follows_torchs_own_rounding_within_limits() -> None:
    for rounding, expected in ((0.0, 1e-5), (1e-7, 1e-5), (2e-5, 2e-4), (1e-2, 1e-3)):
        assert widened(torch.float32, rounding) == pytest.approx(expected)
    assert widened(torch.float16, 1e-3) == pytest.approx(1e-2)
    assert widened(torch.float16, 1.0) == pytest.approx(1e-1)
    assert widened(torch.float64, 1.0) == 1e-9
    assert widened(torch.int64, 1.0) == 0


def test_whole_numbers_must_be_equal() -> None:
    expected = torch.tensor([[1, 2_000_000_000]])
    assert compared(expected.clone(), expected) == (True, None)
    assert compared(expected + 1, expected) == (False, None)


def test_top1_agreement_counts_samples_and_pixels() -> None:
    expected = torch.eye(4)
    found = expected.clone()
    found[3] = torch.tensor([2.0, 0, 0, 1])
    assert compared(found, expected)[1] == 0.75
    pixels = torch.zeros(1, 2, 2, 2)
    pixels[:, 1] = 1
    other = pixels.clone()
    other[0, 0, 0, 0] = 9
    assert compared(other, pixels)[1] == 0.75
    assert compared(torch.ones(3, 1), torch.ones(3, 1))[1] is None
    assert compared(torch.ones(3), torch.ones(3))[1] is None
