"""Operators that keep their input's shape follow the map, in both modes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from tests.passes.networks import Around, annotated, assert_same_outputs, layout

MODULES = [
    nn.ReLU(inplace=True),
    nn.GELU(),
    nn.SiLU(),
    nn.PReLU(4),
    nn.Softmax2d(),
    nn.Hardswish(),
    nn.BatchNorm2d(4),
    nn.GroupNorm(2, 4),
    nn.InstanceNorm2d(4, affine=True),
    nn.LocalResponseNorm(3),
    nn.CrossMapLRN2d(3),
    nn.ChannelShuffle(2),
    nn.GLU(1),
    nn.CircularPad2d(0),
    nn.Identity(),
    nn.Dropout2d(0.0),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_a_layer_computes_what_it_does_alone(module: nn.Module) -> None:
    model = Around(lambda m, x: m.layer(x).mean((2, 3)), layer=module)
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(lambda m, x: m.layer(x).mean((2, 3)), layer=copy.deepcopy(module))
    assert_same_outputs(small, by_hand, torch.randn(3, 3, 8, 8))


FUNCTIONS: dict[str, Any] = {
    "relu_": lambda m, x: x.relu_(),
    "F.relu inplace": lambda m, x: F.relu(x, inplace=True),
    "clamp": lambda m, x: x.clamp(-0.5, 0.5),
    "torch.exp": lambda m, x: torch.exp(x),
    "softmax over channels": lambda m, x: F.softmax(x, dim=1),
    "F.normalize": lambda m, x: F.normalize(x, dim=1),
    "contiguous": lambda m, x: x.contiguous(memory_format=torch.channels_last),
    "to": lambda m, x: x.to(torch.float64).float(),
    "detach and clone": lambda m, x: x.detach().clone(),
    "bitwise": lambda m, x: ~((x > 0).bitwise_and(x < 1)) & (x > -2),
    "operators": lambda m, x: ((x > 0) | (x < -1)) ^ (x // 0.5 % 2 == 0),
    "xlogy": lambda m, x: torch.xlogy(x, x.sigmoid()),
    "floor_divide": lambda m, x: torch.floor_divide(x, 0.1),
    "float_power": lambda m, x: x.sigmoid().float_power(1.5),
    "where, of a tensor": lambda m, x: x.where(x > 0, x.exp()),
    "pow_": lambda m, x: x.clone().pow_(2),
    "lerp_": lambda m, x: x.clone().lerp_(x.exp(), 0.3),
    "addcmul_": lambda m, x: x.clone().addcmul_(x, x, value=0.3),
    "clamp_min": lambda m, x: torch.clamp_min(x, 0.1),
    "softshrink": lambda m, x: F.softshrink(x, 0.1),
    "tanhshrink": lambda m, x: F.tanhshrink(x),
    **{
        name: lambda m, x, name=name: getattr(torch, name)(x.sigmoid() + (name == "acosh"))
        for name in (
            *("acosh", "angle", "asinh", "atanh", "deg2rad", "digamma", "erfinv", "i0"),
            *("isneginf", "isposinf", "lgamma", "positive", "rad2deg", "sgn", "signbit", "sinc"),
        )
    },
    **{
        f"{name}, of a tensor": lambda m, x, name=name: getattr((9 * x).exp(), name)()
        for name in (
            *("bool", "int", "long", "short", "sinc", "sgn", "lgamma"),
            *("ceil_", "floor_", "log_", "neg_", "reciprocal_", "round_", "rsqrt_", "square_"),
        )
    },
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_computes_what_it_does_alone(name: str) -> None:
    body = FUNCTIONS[name]
    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body), torch.randn(2, 3, 8, 8))


def dropout(m: Around, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, m.training)


def through_torch_save(small: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(small))


@pytest.mark.parametrize(
    "carry", [lambda s: s, copy.deepcopy, through_torch_save], ids=["as is", "deepcopy", "pickle"]
)
def test_functional_dropout_follows_the_mode(carry: Any) -> None:
    small = carry(fxscale.downscale(Around(dropout), 8, target_size=12))
    image = torch.randn(8, 3, 8, 8)
    for mode, dropped in ((True, True), (False, False), (True, True)):
        output = small.train(mode)(image)
        share = (output == 0).float().mean().item()
        assert (0.4 < share < 0.6) is dropped
        assert dropped or share == 0


def test_batchnorm_over_a_flattened_map_is_laid_out_over_it() -> None:
    model = Around(
        lambda m, x: m.fc(m.norm(x.flatten(1))), norm=nn.BatchNorm1d(576), fc=nn.Linear(576, 5)
    )
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert small.get_parameter("norm.weight").shape == (256,)
    by_hand = Around(
        lambda m, x: m.fc(m.norm(x.flatten(1))), norm=nn.BatchNorm1d(256), fc=nn.Linear(256, 5)
    )
    assert_same_outputs(small, by_hand, torch.randn(3, 3, 8, 8))
    assert fxscale.upscale_state(small)["norm.running_var"].shape == (576,)


def test_axes_are_kept() -> None:
    network = annotated(Around(lambda m, x: torch.tanh(m.norm(x)), norm=nn.BatchNorm2d(4)))
    assert layout(network, "tanh") == layout(network, "norm") == layout(network, "conv")


@pytest.mark.parametrize(
    ("package", "name", "arguments"),
    [("torchvision.ops", "StochasticDepth", (0.5, "row")), ("timm.layers", "DropPath", (0.5,))],
)
def test_dropped_paths_leave_one_graph_for_both_modes(
    package: str, name: str, arguments: tuple[Any, ...]
) -> None:
    layer = getattr(pytest.importorskip(package), name)(*arguments)
    model = Around(lambda m, x: x + m.drop(m.second(x)), drop=layer, second=nn.Conv2d(4, 4, 1))
    small = fxscale.downscale(model, 8, target_size=12)
    assert small._eval_graph is None
    assert isinstance(small.drop, type(layer))
    images = torch.randn(64, 3, 8, 8)
    kept = small.eval()(images)
    dropped = small.train()(images)
    changed = (kept != dropped).flatten(1).any(1)
    assert 0 < int(changed.sum()) <= 64
