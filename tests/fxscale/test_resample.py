"""Resampling against brute force: the definitions, in float64, point by point."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxscale.errors import FxscaleError, StateMismatchError
from fxscale.resample import (
    Interpolation,
    downscale_entry,
    fan_operator,
    interpolation_operator,
    resize_operator,
    upscale_entry,
)
from tests.fxscale.hand_plans import copy_map, feature_map, interface_map, kernel_map

PAPER_KERNELS = [(2, 3), (3, 5), (5, 7), (7, 11)]
sizes = st.integers(1, 12)


def tent(x: float) -> float:
    return max(0.0, 1 - abs(x))


def keys_cubic(x: float, a: float = -0.75) -> float:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 4."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def brute_force(values: Tensor, shape: tuple[int, ...], interpolation: str) -> Tensor:
    """Every output sample as a sum over all neighbours, half-pixel centres, clamped borders."""
    bump, reach = {"bilinear": (tent, 1), "bicubic": (keys_cubic, 2)}[interpolation]
    result = torch.zeros(shape, dtype=torch.float64)
    for index in itertools.product(*map(range, shape)):
        per_axis = []
        for j, n_in, n_out in zip(index, values.shape, shape, strict=True):
            x = (j + 0.5) * n_in / n_out - 0.5
            near = range(math.floor(x) - reach, math.floor(x) + reach + 2)
            per_axis.append([(min(max(i, 0), n_in - 1), bump(x - i)) for i in near])
        for taps in itertools.product(*per_axis):
            weight = math.prod(w for _, w in taps)
            result[index] += weight * values[tuple(i for i, _ in taps)]
    return result


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@given(n_in=sizes, n_out=sizes)
def test_operators_are_those_of_torch(n_in: int, n_out: int, interpolation: Interpolation) -> None:
    unit = torch.eye(n_in, dtype=torch.float64)[:, None, :, None].expand(-1, -1, -1, 2)
    expected = F.interpolate(unit, (n_out, 2), mode=interpolation)[:, 0, :, 0].T
    actual = interpolation_operator(n_in, n_out, interpolation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("before", "after"),
    [((2,), (3,)), ((5,), (7,)), ((2, 5), (3, 7)), ((3, 2), (5, 2)), ((2, 3, 1), (3, 5, 1))],
)
def test_kernels_against_brute_force(
    before: tuple[int, ...], after: tuple[int, ...], interpolation: Interpolation
) -> None:
    weight = torch.randn(4, 3, *before, dtype=torch.float64)
    state_map = kernel_map("w", (4, 3, *before), (4, 3, *after))
    gain = math.prod(before) / math.prod(after)
    expected = torch.stack([brute_force(w, after, interpolation) for w in weight.flatten(0, 1)])
    actual = upscale_entry(weight, state_map, interpolation)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual.flatten(0, 1), gain * expected, rtol=1e-12, atol=1e-12)

    single = upscale_entry(weight.float(), state_map, interpolation)
    torch.testing.assert_close(single, actual.float(), rtol=1e-5, atol=1e-6)


def test_transposed_and_axes_in_any_place() -> None:
    # An interface behind permute(0, 2, 3, 1) sees (n_out, H, W, C).
    state_map = interface_map("fc", (5, 4, 4, 6), (5, 6, 6, 6))
    weight = torch.randn(5, 4 * 4 * 6, dtype=torch.float64)
    image = weight.view(5, 4, 4, 6).permute(0, 3, 1, 2)
    expected = F.interpolate(image, (6, 6), mode="bicubic").permute(0, 2, 3, 1) * (16 / 36)
    torch.testing.assert_close(
        upscale_entry(weight, state_map), expected.reshape(5, -1), rtol=1e-12, atol=1e-12
    )


@given(small=sizes, big=sizes, interpolation=st.sampled_from(["bilinear", "bicubic"]))
def test_shrinking_undoes_growing(small: int, big: int, interpolation: Interpolation) -> None:
    small, big = sorted((small, big))
    shrink, grow = (resize_operator(*n, interpolation) for n in ((big, small), (small, big)))
    product = shrink @ grow
    torch.testing.assert_close(product, torch.eye(small, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("small", "big"), PAPER_KERNELS)
def test_resample_init_is_the_least_squares_kernel(small: int, big: int) -> None:
    state_map = kernel_map("w", (4, 3, small, small), (4, 3, big, big))
    weight = torch.randn(4, 3, small, small, dtype=torch.float64)
    up = upscale_entry(weight, state_map)
    torch.testing.assert_close(
        downscale_entry(up, state_map, "resample"), weight, rtol=1e-10, atol=1e-12
    )

    # For any other kernel: the residual is orthogonal to everything that can be represented.
    target = torch.randn(4, 3, big, big, dtype=torch.float64)
    best = downscale_entry(target, state_map, "resample")
    residual = target - upscale_entry(best, state_map)
    assert residual.norm() > 0.1
    for basis in torch.eye(small * small, dtype=torch.float64):
        direction = basis.view(1, 1, small, small).expand(4, 3, -1, -1)
        inner = (residual * upscale_entry(direction, state_map)).sum((2, 3))
        torch.testing.assert_close(inner, torch.zeros_like(inner), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("small", "big"), PAPER_KERNELS)
def test_fan_init_keeps_the_fan_in_variance_and_the_sum_of_every_kernel(
    small: int, big: int
) -> None:
    weight = torch.randn(64, 64, big, big, dtype=torch.float64)
    state_map = kernel_map("w", (64, 64, small, small), (64, 64, big, big))
    result = downscale_entry(weight, state_map, "fan")
    torch.testing.assert_close(result.sum((2, 3)), weight.sum((2, 3)), rtol=1e-10, atol=1e-10)
    variances = float(result.var()) * small**2, float(weight.var()) * big**2
    assert variances[0] == pytest.approx(variances[1], rel=0.03)
    # A constant kernel stays one, with the same sum.
    flat = downscale_entry(torch.ones_like(weight), state_map, "fan")
    torch.testing.assert_close(flat, torch.full_like(flat, (big / small) ** 2))


def test_fan_operator_by_hand() -> None:
    # Area averaging 3 -> 2 is [[2, 1, 0], [0, 1, 2]], up to a factor; A A^T = [[5, 1], [1, 5]] has
    # the eigenvalues 6 and 4 for (1, 1) and (1, -1).
    even = torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64) / (2 * math.sqrt(6))
    odd = torch.tensor([2.0, 0.0, -2.0], dtype=torch.float64) / (2 * math.sqrt(4))
    torch.testing.assert_close(fan_operator(3, 2), torch.stack([even + odd, even - odd]))


@given(n_in=st.integers(1, 40), n_out=st.integers(1, 40))
def test_fan_operator_is_a_co_isometry_that_keeps_sums(n_in: int, n_out: int) -> None:
    n_out, n_in = sorted((n_in, n_out))
    operator = fan_operator(n_in, n_out)
    torch.testing.assert_close(operator @ operator.T, torch.eye(n_out, dtype=torch.float64))
    sums = torch.full((n_in,), math.sqrt(n_out / n_in), dtype=torch.float64)
    torch.testing.assert_close(operator.sum(0), sums)
    torch.testing.assert_close(operator, operator.flip(0, 1))


def test_fan_and_resample_of_an_interface() -> None:
    state_map = interface_map("fc", (10, 8, 4, 4), (10, 8, 6, 6))
    weight = torch.randn(10, 8 * 6 * 6, dtype=torch.float64)
    fan = downscale_entry(weight, state_map, "fan")
    assert fan.shape == (10, 8 * 4 * 4)
    # Each channel's weights keep their sum over the map: the response to a constant map.
    sums = weight.view(10, 8, 6, 6).sum((2, 3))
    torch.testing.assert_close(fan.view(10, 8, 4, 4).sum((2, 3)), sums)
    down = downscale_entry(weight, state_map, "resample")
    up = upscale_entry(down, state_map)
    torch.testing.assert_close(
        downscale_entry(up, state_map, "resample"), down, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("init", ["fan", "resample"])
def test_features_keep_their_amplitude(init: str) -> None:
    state_map = feature_map("pos", (1, 5, 4, 4), (1, 5, 6, 6))
    embedding = torch.rand(1, 5, 6, 6, dtype=torch.float64)
    down = downscale_entry(embedding, state_map, init)
    expected = F.interpolate(embedding, (4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(down, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        upscale_entry(torch.full_like(down, 3.0), state_map), torch.full_like(embedding, 3.0)
    )


def test_features_stay_positive_under_bicubic() -> None:
    spike = torch.zeros(1, 4, 4)
    spike[0, 1, 1] = 1
    state_map = feature_map("var", (1, 4, 4), (1, 6, 6))
    assert upscale_entry(spike, state_map, "bicubic").min() >= 0


def test_squared_operator() -> None:
    state_map = kernel_map("w", (1, 1, 3, 2), (1, 1, 5, 3))
    moments = torch.rand(1, 1, 3, 2, dtype=torch.float64)
    columns = [
        upscale_entry(basis.view(1, 1, 3, 2), state_map).flatten()
        for basis in torch.eye(6, dtype=torch.float64)
    ]
    operator = torch.stack(columns, 1)
    expected = (operator.square() @ moments.flatten()).view(1, 1, 5, 3)
    actual = upscale_entry(moments, state_map, squared=True)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_and_float32_computes(dtype: torch.dtype) -> None:
    state_map = kernel_map("w", (8, 4, 5, 5), (8, 4, 7, 7))
    weight = torch.randn(8, 4, 5, 5).to(dtype)
    exact = upscale_entry(weight.double(), state_map)
    up = upscale_entry(weight, state_map)
    assert up.dtype == dtype
    # One rounding to the dtype at the end, not one for every operation.
    ulp = torch.finfo(dtype).eps / 2 * exact.abs()
    rounding = 0.0 if dtype == torch.float64 else 1e-6  # of float32, and of subnormal halves
    assert ((up.double() - exact).abs() <= ulp * 1.001 + rounding).all()
    assert downscale_entry(up, state_map, "fan").dtype == dtype


def test_autocast_and_low_precision_settings_do_not_round() -> None:
    state_map = kernel_map("w", (8, 4, 5, 5), (8, 4, 7, 7))
    weight = torch.randn(8, 4, 5, 5)
    expected = upscale_entry(weight, state_map)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upscale_entry(weight, state_map), expected)


@pytest.mark.gpu
def test_device_is_kept() -> None:
    state_map = kernel_map("w", (8, 4, 5, 5), (8, 4, 7, 7))
    weight = torch.randn(8, 4, 5, 5)
    up = upscale_entry(weight.cuda(), state_map)
    assert up.is_cuda
    torch.testing.assert_close(up.cpu(), upscale_entry(weight, state_map), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("resized", [False, True])
def test_results_are_fresh_and_carry_no_gradient(resized: bool) -> None:
    weight = torch.randn(4, 3, 2, 2, requires_grad=True)
    after = (4, 3, 3, 3) if resized else (4, 3, 2, 2)
    up = upscale_entry(weight, kernel_map("w", (4, 3, 2, 2), after))
    assert not up.requires_grad
    before = weight.detach().clone()
    up.fill_(7.0)
    assert torch.equal(weight, before)


def test_equal_shapes_give_the_same_bits() -> None:
    weight = torch.randn(4, 3, 3, 3)
    state_map = kernel_map("w", (4, 3, 3, 3), (4, 3, 3, 3))
    assert torch.equal(upscale_entry(weight, state_map), weight)
    assert torch.equal(downscale_entry(weight, state_map, "fan"), weight)
    assert torch.equal(downscale_entry(weight, state_map, "resample"), weight)


def test_strides_do_not_matter() -> None:
    weight = torch.randn(8, 4, 3, 3)
    state_map = kernel_map("w", (8, 4, 3, 3), (8, 4, 5, 5))
    permuted = weight.to(memory_format=torch.channels_last)
    torch.testing.assert_close(upscale_entry(permuted, state_map), upscale_entry(weight, state_map))


def test_integers_are_copied_but_never_resized() -> None:
    count = torch.tensor(2**40 + 1)
    assert torch.equal(upscale_entry(count, copy_map("n", ())), count)
    index = torch.zeros(4, 4, dtype=torch.int64)
    with pytest.raises(StateMismatchError, match=r"'i' is resized .* found torch\.int64"):
        downscale_entry(torch.zeros(6, 6).long(), feature_map("i", (4, 4), (6, 6)), "fan")
    with pytest.raises(StateMismatchError, match=r"expected a floating-point tensor"):
        upscale_entry(index, feature_map("i", (4, 4), (6, 6)))


def test_unknown_names() -> None:
    with pytest.raises(FxscaleError, match="'bilinear' or 'bicubic', not 'cubic'"):
        interpolation_operator(2, 3, "cubic")
    with pytest.raises(FxscaleError, match="init is 'fan' or 'resample', not 'random'"):
        downscale_entry(torch.zeros(2), copy_map("b", (2,)), "random")
