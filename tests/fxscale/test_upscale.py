"""`upscale_state` against what the paper promises of it, and against wrong states."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxscale.errors import PlanMismatchError, StateMismatchError
from fxscale.plan import ScalePlan
from fxscale.resample import upscale_entry
from fxscale.upscale import plan_of, upscale_state
from tests.fxscale.hand_plans import (
    SmallNet,
    copy_map,
    feature_map,
    interface_map,
    kernel_map,
    plan_of_maps,
    small_plan,
)

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def closed_form_gains(small: int, big: int) -> list[Fraction]:
    """k'/k times the column sums of the bilinear operator: the weight that each tap ends up with.

    By hand, with sample positions (j + 1/2) * k'/k - 1/2: 2 -> 3 has (1, 1/2, 0) and its mirror, so
    columns (3/2, 3/2); the others likewise.
    """
    sums = {
        (2, 3): "3/2 3/2",
        (3, 5): "8/5 9/5 8/5",
        (5, 7): "10/7 9/7 11/7 9/7 10/7",
        (7, 11): "17/11 18/11 16/11 19/11 16/11 18/11 17/11",
    }[small, big]
    return [Fraction(small, big) * Fraction(s) for s in sums.split()]


@pytest.mark.parametrize(("small", "big"), [(2, 3), (3, 5), (5, 7), (7, 11)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_constant_images_keep_their_response(small: int, big: int, rank: int) -> None:
    state_map = kernel_map("w", (4, 2, *[small] * rank), (4, 2, *[big] * rank))
    weight = torch.randn(state_map.pretrain_shape, dtype=torch.float64)
    up = upscale_entry(weight, state_map, "bilinear")
    image = torch.full((1, 2, *[big] * rank), 0.7, dtype=torch.float64)
    crop = image[(..., *[slice(small)] * rank)]
    response, expected = CONVS[rank](image, up), CONVS[rank](crop, weight)

    gains = torch.tensor([float(g) for g in closed_form_gains(small, big)], dtype=torch.float64)
    tap_gains = torch.ones((), dtype=torch.float64)
    for _ in range(rank):
        tap_gains = tap_gains[..., None] * gains
    closed_form = CONVS[rank](crop, weight * tap_gains)
    torch.testing.assert_close(response, closed_form, rtol=1e-12, atol=1e-12)

    spread = float((tap_gains - 1).abs().max())
    bound = spread * 0.7 * weight.abs().sum(tuple(range(1, weight.ndim))) + 1e-12
    assert ((response - expected).flatten().abs() <= bound).all()
    assert (spread == 0) == (small == 2)


def test_constant_images_keep_their_response_cubically() -> None:
    # 2 -> 3: the two taps of every row sum to one and the matrix is its own mirror image, so both
    # columns sum to 3/2 and the factor 2/3 makes that one.
    weight = torch.randn(4, 2, 2, 2, dtype=torch.float64)
    up = upscale_entry(weight, kernel_map("w", (4, 2, 2, 2), (4, 2, 3, 3)), "bicubic")
    torch.testing.assert_close(up.sum((2, 3)), weight.sum((2, 3)), rtol=1e-12, atol=1e-12)


class Waves:
    """A band-limited image: a mean of plane waves, of at most `frequency` radians per unit."""

    def __init__(self, frequency: float, rank: int, count: int = 12) -> None:
        generator = torch.Generator().manual_seed(rank)
        kwargs: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        self.frequency = frequency * (2 * torch.rand(count, rank, **kwargs) - 1)
        self.phase = 6.3 * torch.rand(count, **kwargs)

    def sample(self, count: int, spacing: float) -> Tensor:
        """`(1, 1, *[count] * rank)`, at the centres of pixels `spacing` wide."""
        rank = self.frequency.shape[1]
        centres = (torch.arange(count, dtype=torch.float64) + 0.5) * spacing
        grid = torch.stack(torch.meshgrid(*[centres] * rank, indexing="ij"), -1)
        return torch.cos(grid @ self.frequency.T + self.phase).mean(-1)[None, None]


def commutation_error(small: int, big: int, rank: int, frequency: float) -> tuple[float, float]:
    """How far the upscaled kernel on the finer image is from the kernel on the coarse one.

    Windows that do not overlap lie at the same places of the image in both networks. The bound
    follows from the mean-value theorem: each tap m of the pre-train kernel becomes taps n at
    distances d(n, m) (in pre-train pixels) of weights G[n, m] >= 0, and a wave of amplitude 1
    changes by at most frequency * distance:
    error <= sum_m |w'[m]| * (|sum_n G[n, m] - 1| + frequency * sum_n G[n, m] * |d(n, m)|_1).
    """
    state_map = kernel_map("w", (3, 1, *[small] * rank), (3, 1, *[big] * rank))
    weight = torch.randn(state_map.pretrain_shape, dtype=torch.float64)
    up = upscale_entry(weight, state_map)
    waves, windows = Waves(frequency, rank), 6
    coarse = CONVS[rank](waves.sample(windows * small, 1.0), weight, stride=small)
    fine = CONVS[rank](waves.sample(windows * big, small / big), up, stride=big)

    one_channel = kernel_map("w", (1, 1, *[small] * rank), (1, 1, *[big] * rank))
    bound = torch.zeros(3, dtype=torch.float64)
    for tap in itertools.product(range(small), repeat=rank):
        unit = torch.zeros(1, 1, *[small] * rank, dtype=torch.float64)
        unit[(0, 0, *tap)] = 1
        spread = upscale_entry(unit, one_channel)[0, 0]
        distance = torch.zeros_like(spread)
        for axis, centre in enumerate(tap):
            places = (torch.arange(big, dtype=torch.float64) + 0.5) * small / big
            shape = [-1 if a == axis else 1 for a in range(rank)]
            distance = distance + (places - (centre + 0.5)).abs().view(shape)
        slope = frequency * float((spread * distance).sum())
        bound += weight[(slice(None), 0, *tap)].abs() * (abs(float(spread.sum()) - 1) + slope)
    error = (fine - coarse).abs().amax(tuple(range(2, 2 + rank)))[0]
    assert (error <= bound + 1e-12).all()
    return float(error.max()), float(bound.max())


@pytest.mark.parametrize(("small", "big"), [(2, 3), (3, 5), (5, 7)])
@pytest.mark.parametrize("rank", [1, 2])
def test_smooth_images_commute_with_the_convolution(small: int, big: int, rank: int) -> None:
    for frequency in (1.0, 0.3, 0.1, 0.03):
        torch.manual_seed(0)
        error, bound = commutation_error(small, big, rank, frequency)
        assert error <= bound + 1e-12


def test_the_commutation_error_vanishes_with_the_frequency() -> None:
    errors = []
    for frequency in (0.4, 0.2, 0.1, 0.05):
        torch.manual_seed(0)
        errors.append(commutation_error(2, 3, 2, frequency)[0])
    ratios = [after / before for before, after in itertools.pairwise(errors)]
    assert all(ratio < 0.6 for ratio in ratios), errors


def test_interface_is_the_same_weight_treated_as_a_convolution() -> None:
    kernel = torch.randn(10, 8, 4, 4, dtype=torch.float64)
    as_conv = upscale_entry(kernel, kernel_map("w", (10, 8, 4, 4), (10, 8, 6, 6)))
    as_interface = upscale_entry(
        kernel.flatten(1), interface_map("w", (10, 8, 4, 4), (10, 8, 6, 6))
    )
    features = torch.randn(5, 8, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(
        F.linear(features.flatten(1), as_interface),
        F.conv2d(features, as_conv).flatten(1),
        rtol=1e-12,
        atol=1e-12,
    )


def trained() -> SmallNet:
    """A pre-train network whose every entry differs from its first value."""
    net = SmallNet(8)
    with torch.no_grad():
        for entry in net.state_dict().values():
            if entry.is_floating_point():
                entry.add_(torch.rand_like(entry))
            else:
                entry.add_(7)
    return net


def test_the_target_loads_it_strictly() -> None:
    small, target = trained(), SmallNet(12)
    state = upscale_state(small)
    assert list(state) == list(target.state_dict())
    target.load_state_dict(state)
    for key, entry in small.state_dict().items():
        if key not in ("conv.weight", "depthwise.weight", "fc.weight"):
            assert torch.equal(state[key], entry), key
    expected = F.interpolate(small.conv.weight, (3, 3), mode="bicubic") * 4 / 9
    torch.testing.assert_close(target.conv.weight, expected)
    expected = F.interpolate(small.fc.weight.view(10, 6, 4, 4), (6, 6), mode="bicubic") * 16 / 36
    torch.testing.assert_close(target.fc.weight, expected.flatten(1))
    linear = upscale_state(small, interpolation="bilinear")["conv.weight"]
    torch.testing.assert_close(
        linear, F.interpolate(small.conv.weight, (3, 3), mode="bilinear") * 4 / 9
    )


def test_nothing_is_aliased() -> None:
    small = trained()
    before = copy.deepcopy(small.state_dict())
    for entry in upscale_state(small).values():
        entry.fill_(3)
    for key, entry in small.state_dict().items():
        assert torch.equal(entry, before[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    state = upscale_state(trained().to(dtype))
    dtypes = {key: entry.dtype for key, entry in state.items()}
    assert dtypes.pop("norm.num_batches_tracked") == torch.int64
    assert set(dtypes.values()) == {dtype}


@pytest.mark.gpu
def test_devices_are_kept() -> None:
    assert all(entry.is_cuda for entry in upscale_state(trained().cuda()).values())


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_prefixes_of_wrappers(prefix: str) -> None:
    small = trained()
    expected = upscale_state(small)
    wrapped = {prefix + key: entry for key, entry in small.state_dict().items()}
    for state in (upscale_state(small, wrapped), upscale_state(small.plan, wrapped)):
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_wrapped_modules() -> None:
    small = trained()
    expected = upscale_state(small)
    compiled_child = copy.deepcopy(small)
    compiled_child.norm = torch.compile(compiled_child.norm)
    wrappers = [
        torch.compile(small),
        nn.DataParallel(small),
        torch.compile(nn.DataParallel(small)),
        compiled_child,
    ]
    for wrapper in wrappers:
        state = upscale_state(wrapper)
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        assert state.keys() == expected.keys()


def test_a_child_may_be_called_module() -> None:
    plan = plan_of_maps(copy_map("module.weight", (2,)), copy_map("weight", (3,)))
    state = {"module.weight": torch.ones(2), "weight": torch.zeros(3)}
    assert upscale_state(plan, state).keys() == state.keys()
    ddp = {f"module.{key}": entry for key, entry in state.items()}
    with pytest.raises(StateMismatchError, match=r"module\.weight"):
        upscale_state(plan, {**ddp, **state})


def test_tied_entries() -> None:
    plan = plan_of_maps(*(kernel_map(key, (2, 2, 2), (2, 2, 3)) for key in ("a", "b")))
    tied = torch.randn(2, 2, 2)
    state = upscale_state(plan, {"a": tied, "b": tied})
    assert torch.equal(state["a"], state["b"])
    assert state["a"].data_ptr() != state["b"].data_ptr()


def with_entry(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("head.bias"),
            r"head\.bias: expected shape \(3,\), found no such entry",
        ),
        (with_entry("extra", torch.ones(2)), "extra: expected no such entry, found it"),
        (
            with_entry("conv.weight", torch.ones(6, 2, 4, 4)),
            r"conv\.weight: expected shape \(6, 2, 2, 2\), found \(6, 2, 4, 4\)",
        ),
        (
            with_entry("conv.weight", torch.ones(6, 2, 2, 2, dtype=torch.int8)),
            r"conv\.weight: expected a floating-point tensor, found torch\.int8",
        ),
        (
            with_entry("head.bias", torch.ones(3, dtype=torch.int64)),
            r"head\.bias: expected a tensor like torch\.float32, found torch\.int64",
        ),
        (with_entry("head.bias", [1, 2, 3]), r"head\.bias: expected a tensor, found list"),
        (
            with_entry("head.bias", torch.ones(3, device="meta")),
            r"head\.bias: expected a tensor with data, found one on the meta device",
        ),
        (
            with_entry("head.bias", torch.tensor([1, torch.nan, torch.nan])),
            r"head\.bias: expected finite values, found 2 NaN of 3",
        ),
        (
            with_entry("head.bias", torch.tensor([1, torch.inf, torch.nan])),
            r"head\.bias: expected finite values, found 1 NaN, 1 \+inf of 3",
        ),
        (
            with_entry("fc.weight", torch.full((10, 96), -torch.inf)),
            r"fc\.weight: expected finite values, found 960 -inf of 960",
        ),
        (
            with_entry("module.head.bias", torch.ones(3)),
            r"module\.head\.bias: expected head\.bias once, found it under several prefixes",
        ),
    ],
)
def test_wrong_states(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    small = trained()
    state = dict(small.state_dict())
    upscale_state(small, state)  # the accepted neighbour
    change(state)
    with pytest.raises(StateMismatchError, match=message) as caught:
        upscale_state(small, state)
    assert "the pre-train network of SmallNet (8 -> 12)" in str(caught.value)


def test_every_fault_is_listed_up_to_a_cap() -> None:
    plan = plan_of_maps(*(copy_map(f"b{i}", (2,)) for i in range(14)))
    with pytest.raises(StateMismatchError) as caught:
        upscale_state(plan, {"b0": torch.ones(2), "b1": torch.ones(3)})
    lines = str(caught.value).splitlines()
    assert lines[1] == "  b1: expected shape (2,), found (3,)"
    assert lines[-1] == "  and 3 more"
    assert len(lines) == 12


def test_a_target_state_is_recognised() -> None:
    with pytest.raises(StateMismatchError, match="it is upscaled already"):
        upscale_state(small_plan(), SmallNet(12).state_dict())


def test_a_checkpoint_around_the_state_is_recognised() -> None:
    checkpoint: Any = {"epoch": 3, "model": trained().state_dict()}
    with pytest.raises(StateMismatchError, match="'model' is itself a dict: pass that one"):
        upscale_state(small_plan(), checkpoint)


@pytest.mark.parametrize("state", [[torch.ones(2)], {0: torch.ones(2)}, "weights.pt"])
def test_no_state_dict(state: Any) -> None:
    with pytest.raises(StateMismatchError, match="expected a state dict, from names to tensors"):
        upscale_state(small_plan(), state)


def test_masks_may_hold_negative_infinity() -> None:
    mask = torch.full((3, 3), -torch.inf).triu(1)
    state = upscale_state(plan_of_maps(copy_map("mask", (3, 3))), {"mask": mask})
    assert torch.equal(state["mask"], mask)


def test_no_plan_and_no_state() -> None:
    with pytest.raises(PlanMismatchError, match=r"Linear carries no plan: expected the pre-train"):
        upscale_state(nn.Linear(2, 2))
    with pytest.raises(StateMismatchError, match="a plan holds no weights"):
        upscale_state(small_plan())
    assert plan_of(nn.DataParallel(trained())) == small_plan()


def stage(kernel: int | None) -> ScalePlan:
    """A stage of the target with kernel 7, kernel `None`: as in the target; interface likewise."""
    shape, side = (4, 3, kernel or 7, kernel or 7), 6 if kernel is None else kernel - 1
    weight = kernel_map("w", shape, (4, 3, 7, 7)) if kernel else copy_map("w", (4, 3, 7, 7))
    fc = (
        interface_map("fc", (5, 4, side, side), (5, 4, 6, 6))
        if kernel
        else copy_map("fc", (5, 144))
    )
    pos = feature_map("pos", (1, side), (1, 6)) if kernel else copy_map("pos", (1, 6))
    return plan_of_maps(weight, fc, pos, copy_map("b", (4,)))


def random_state(plan: ScalePlan) -> dict[str, Tensor]:
    return {m.key: torch.randn(m.pretrain_shape, dtype=torch.float64) for m in plan.state}


def test_from_stage_to_stage() -> None:
    first, second = stage(3), stage(5)
    state = random_state(first)
    result = upscale_state(first, state, into=second)
    expected = F.interpolate(state["w"], (5, 5), mode="bicubic") * 9 / 25
    torch.testing.assert_close(result["w"], expected)
    expected = F.interpolate(state["fc"].view(5, 4, 2, 2), (4, 4), mode="bicubic") * 4 / 16
    torch.testing.assert_close(result["fc"], expected.flatten(1))
    expected = F.interpolate(state["pos"][None], 4, mode="linear")[0]
    torch.testing.assert_close(result["pos"], expected)
    assert torch.equal(result["b"], state["b"])

    back = upscale_state(second, result, into=first)
    for key in ("w", "fc", "b"):
        torch.testing.assert_close(back[key], state[key])
    same = upscale_state(first, state, into=first)
    assert all(torch.equal(same[key], state[key]) for key in state)


def test_a_stage_may_be_as_the_target() -> None:
    first, whole = stage(5), stage(None)
    state = random_state(first)
    result = upscale_state(first, state, into=whole)
    expected = upscale_state(first, state)
    assert all(torch.equal(result[key], expected[key]) for key in expected)
    back = upscale_state(whole, result, into=first)
    assert all(tuple(back[m.key].shape) == m.pretrain_shape for m in first.state)
    torch.testing.assert_close(back["w"], state["w"])


def test_stages_of_different_targets() -> None:
    first, other = stage(3), replace(stage(5), fingerprint="0" * 64, model="Other")
    with pytest.raises(PlanMismatchError, match=r"different targets: .*HandMade.*000 \(Other\)"):
        upscale_state(first, random_state(first), into=other)
