"""Constants resized in the graph, against torch's own interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fxscale.constants import resize_constant


@pytest.mark.parametrize("lengths", [(12, 8), (8, 12), (7, 5), (1, 4), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_resize_constant_against_interpolate(lengths: tuple[int, int], dtype: torch.dtype) -> None:
    before, after = lengths
    tensor = (torch.randn(2, 3, before, before) * 9).to(dtype)
    linear = dtype.is_floating_point
    got = resize_constant(
        tensor.flatten(2), ((2,), (3,), (before, before)), ((2,), (3,), (after, after)), not linear
    )
    expected = F.interpolate(
        tensor.double(), size=after, mode="bilinear" if linear else "nearest-exact"
    )
    torch.testing.assert_close(got, expected.to(dtype).flatten(2))
    assert got.dtype == dtype


def test_flattened_axes_are_resized_one_by_one() -> None:
    tensor = torch.randn(3, 4 * 6, 5)
    got = resize_constant(tensor, ((3,), (4, 6), (5,)), ((3,), (2, 9), (5,)), False)
    image = tensor.reshape(3, 4, 6, 5).permute(0, 3, 1, 2)
    expected = F.interpolate(image, size=(2, 9), mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(got, expected.reshape(3, 18, 5))


def test_a_dimension_that_stays_may_have_any_length() -> None:
    tensor = torch.randn(5, 4)
    got = resize_constant(tensor, ((2,), (4,)), ((2,), (2,)), False)
    torch.testing.assert_close(got, tensor.unflatten(1, (2, 2)).mean(2))


def test_parts_that_lie_one_behind_the_other_are_resized_on_their_own() -> None:
    tokens = torch.randn(2, 1 + 4 * 6 + 3, 5)
    before, after = ((1,), (4, 6), (3,)), ((1,), (2, 9), (3,))
    got = resize_constant(tokens, ((2,), before, (5,)), ((2,), after, (5,)), False)
    image = tokens[:, 1:25].reshape(2, 4, 6, 5).permute(0, 3, 1, 2)
    small = F.interpolate(image, size=(2, 9), mode="bilinear").flatten(2).mT
    torch.testing.assert_close(got, torch.cat([tokens[:, :1], small, tokens[:, 25:]], 1))


def test_biases_between_parts_are_resized_on_both_sides() -> None:
    bias = torch.randn(2, 5, 5)
    got = resize_constant(
        bias, ((2,), ((1,), (4,)), ((1,), (4,))), ((2,), ((1,), (2,)), ((1,), (2,))), False
    )
    halves = torch.tensor([[1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0, 0.5, 0.5]])
    torch.testing.assert_close(got, halves @ bias @ halves.T)


def test_gradients_are_those_of_interpolation() -> None:
    tensor = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t: resize_constant(t, ((3,), (7,)), ((2,), (5,)), False), (tensor,)
    )
