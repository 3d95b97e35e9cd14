"""The inverse as an ONNX graph: a second implementation of `upscale_state`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fxscale
from fxscale import OnnxError, StateMismatchError
from fxscale.onnx import upscale_with_onnx
from fxscale.onnx.inverse import inverse_model
from fxscale.plan import StateMap
from fxscale.resample import Interpolation
from fxscale.training import SmallResNet
from tests.fxscale.hand_plans import (
    copy_map,
    feature_map,
    interface_map,
    kernel_map,
    plan_of_maps,
)
from tests.fxscale.onnx.states import assert_equal

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PLAN = plan_of_maps(
    kernel_map("conv1d.weight", (4, 3, 2), (4, 3, 3)),
    kernel_map("conv2d.weight", (4, 3, 7, 5), (4, 3, 11, 7)),
    kernel_map("one_axis.weight", (4, 3, 1, 2), (4, 3, 1, 3)),
    kernel_map("conv3d.weight", (2, 1, 2, 3, 5), (2, 1, 3, 5, 7)),
    interface_map("fc.weight", (5, 1024, 4, 4), (5, 1024, 6, 6)),  # OverFeat-fast's
    feature_map("positions", (1, 4, 4, 8), (1, 7, 7, 8)),
    copy_map("fc.bias", (5,)),
    copy_map("steps", ()),
)


def random_state(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    state = {m.key: torch.randn(m.pretrain_shape).to(dtype) for m in PLAN.state}
    return state | {"steps": torch.tensor(7)}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_equals_upscale_state_for_every_kind_of_entry(interpolation: Interpolation) -> None:
    state = random_state()
    expected = fxscale.upscale_state(PLAN, state, interpolation=interpolation)
    found = upscale_with_onnx(PLAN, state, interpolation=interpolation)
    assert_equal(found, expected, torch.finfo(torch.float32).eps)
    assert torch.equal(found["steps"], torch.tensor(7))


def test_equals_torchs_own_interpolation() -> None:
    """A third opinion, without plan or matrices: `F.interpolate`, times 35/77."""
    state = random_state()
    found = upscale_with_onnx(PLAN, state, interpolation="bilinear")
    expected = F.interpolate(state["conv2d.weight"], size=(11, 7), mode="bilinear") * (35 / 77)
    torch.testing.assert_close(found["conv2d.weight"], expected)


def test_half_precision_is_computed_in_float32() -> None:
    state = random_state(torch.float16)
    found = upscale_with_onnx(PLAN, state)
    expected = fxscale.upscale_state(PLAN, state)
    assert_equal(found, expected, torch.finfo(torch.float16).eps / 16)  # one rounding, at the end


@settings(max_examples=30)
@given(
    before=st.integers(1, 9),
    growth=st.integers(1, 8),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_equals_upscale_state_for_any_kernel(
    before: int, growth: int, interpolation: Interpolation
) -> None:
    shapes = (2, 1, before, 1), (2, 1, before + growth, 2)
    plan = plan_of_maps(kernel_map("weight", *shapes))
    state = {"weight": torch.randn(shapes[0], generator=torch.Generator().manual_seed(before))}
    expected = fxscale.upscale_state(plan, state, interpolation=interpolation)
    found = upscale_with_onnx(plan, state, interpolation=interpolation)
    assert_equal(found, expected, torch.finfo(torch.float32).eps)


def test_the_graph_is_resize_and_mul_and_passes_the_checker() -> None:
    model = inverse_model(PLAN)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == {"Reshape", "Resize", "Mul"}
    # One Resize per axis that grows, one Mul per entry whose amplitude changes.
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Resize") == 1 + 2 + 1 + 3 + 2 + 2
    assert operators.count("Mul") == 5
    assert [value.name for value in model.graph.output][:2] == [
        "conv1d.weight/target",
        "conv2d.weight/target",
    ]


def test_compiled_network_with_a_fully_connected_interface() -> None:
    small = fxscale.downscale(SmallResNet(3, 5, widths=(8, 16), interface=16), 44, target_size=64)
    assert [m.kind for m in small.plan.state].count("interface") == 1
    found = upscale_with_onnx(small)
    assert_equal(found, fxscale.upscale_state(small), torch.finfo(torch.float32).eps)


class Tokens(torch.nn.Module):
    """A class token among the pixels, and a linear layer over two flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.position = torch.nn.Parameter(torch.randn(1, 1 + 36, 4))
        self.fc = torch.nn.Linear(4 * 36 + 4 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(self.conv(x), 2)
        tokens = torch.cat([y.mean((2, 3))[:, None], y.flatten(2).mT], 1) + self.position
        maps = torch.cat([tokens[:, 1:].flatten(1), F.max_pool2d(y, 2).flatten(1)], 1)
        out: Tensor = self.fc(maps)
        return out


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_parts_that_lie_one_behind_the_other(interpolation: Interpolation) -> None:
    small = fxscale.downscale(Tokens(), 8, target_size=12)
    assert {m.key: len(m.parts) for m in small.plan.state if m.parts} == {
        "position": 2,
        "fc.weight": 2,
    }
    expected = fxscale.upscale_state(small, interpolation=interpolation)
    found = upscale_with_onnx(small.plan, small.state_dict(), interpolation=interpolation)
    assert_equal(found, expected, torch.finfo(torch.float32).eps)


def test_nothing_to_resize_is_a_copy() -> None:
    plan = plan_of_maps(copy_map("bias", (3,)))
    state = {"bias": torch.ones(3)}
    found = upscale_with_onnx(plan, state)
    assert torch.equal(found["bias"], state["bias"])
    assert found["bias"].data_ptr() != state["bias"].data_ptr()


def test_wrong_states_are_refused_as_upscale_state_does() -> None:
    with pytest.raises(StateMismatchError, match=r"fc.bias: expected shape \(5,\), found no such"):
        upscale_with_onnx(PLAN, {k: v for k, v in random_state().items() if k != "fc.bias"})
    with pytest.raises(StateMismatchError, match="expected a state dict"):
        upscale_with_onnx(PLAN)
    small = fxscale.downscale(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), 8, target_size=12)
    rounded = {key: value.long() for key, value in small.state_dict().items()}
    for upscale in (fxscale.upscale_state, upscale_with_onnx):
        with pytest.raises(
            StateMismatchError, match=r"0.bias: expected a tensor like torch.float32"
        ):
            upscale(small, rounded)


def test_shrinking_is_not_in_it() -> None:
    plan = plan_of_maps(kernel_map("weight", (1, 1, 3), (1, 1, 2)))
    with pytest.raises(OnnxError, match="'weight' shrinks from 3 to 2 along axis 2"):
        upscale_with_onnx(plan, {"weight": torch.ones(1, 1, 3)})


def weight_norm_maps(taps: int, *, centred: bool = False) -> tuple[StateMap, StateMap]:
    """A gain of three numbers before its kernel, which has so many taps in the target."""
    gain = StateMap("g", "gain", (3, 1), (3, 1), (3, 1), (3, 1), of="v", centred=centred)
    return gain, kernel_map("v", (3, 2), (3, taps))


@pytest.mark.parametrize("centred", [False, True])
def test_gains_grow_by_the_norm_of_their_kernel(centred: bool) -> None:
    state = {
        "g": torch.tensor([[1.0], [2.0], [3.0]]),
        "v": torch.tensor([[2.0, 0], [1, 3], [0, 0]]),
    }
    plan = plan_of_maps(*weight_norm_maps(3, centred=centred))
    found = upscale_with_onnx(plan, state, interpolation="bilinear")
    # 2/3 times (2, 1, 0) and (1, 2, 3); the last kernel is zero: as a constant one.
    norms = [2**0.5, 2**0.5, 0] if centred else [5**0.5, 14**0.5, 0]
    before = [2**0.5, 2**0.5, 1] if centred else [2, 10**0.5, 1]
    growth = torch.tensor([[2 / 3 * n / b] for n, b in zip(norms, before, strict=True)])
    growth[2] = (2 / 3) ** 0.5
    torch.testing.assert_close(found["g"], state["g"] * growth)
    assert_equal(
        found,
        fxscale.upscale_state(plan, state, interpolation="bilinear"),
        torch.finfo(torch.float32).eps,
    )


def test_gains_of_kernels_that_stay_stay() -> None:
    state = {"g": torch.randn(3, 1), "v": torch.randn(3, 2)}
    found = upscale_with_onnx(plan_of_maps(*weight_norm_maps(2)), state)
    assert_equal(found, state, torch.finfo(torch.float32).eps)


def test_directions_have_length_one() -> None:
    grown = StateMap("u", "direction", (2,), (3,), (2,), (3,))
    plan = plan_of_maps(grown, replace(grown, key="zero"))
    state = {"u": torch.tensor([0.6, 0.8]), "zero": torch.zeros(2)}
    found = upscale_with_onnx(plan, state, interpolation="bilinear")
    expected = torch.tensor([0.6, 0.7, 0.8]) / (0.36 + 0.49 + 0.64) ** 0.5
    torch.testing.assert_close(found["u"], expected)
    assert torch.equal(found["zero"], torch.zeros(3))


def test_the_graph_of_norms_passes_the_checker() -> None:
    direction = StateMap("u", "direction", (2,), (3,), (2,), (3,))
    model = inverse_model(plan_of_maps(*weight_norm_maps(3, centred=True), direction))
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == ["g/target", "v/target", "u/unit"]
