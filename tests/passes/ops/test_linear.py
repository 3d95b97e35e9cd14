"""Fully connected interfaces are read off the axes, whatever way the map was flattened."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import (
    Around,
    assert_gradients_reach_every_parameter,
    assert_same_outputs,
    sites_of,
)

FLATTEN: dict[str, Any] = {
    "flatten": lambda x: torch.flatten(x, 1),
    ".flatten": lambda x: x.flatten(1),
    "view -1 first": lambda x: x.view(-1, 4 * x.shape[2] * x.shape[3]),
    "view(x.size(0), -1)": lambda x: x.view(x.size(0), -1),
    "view(len(x), -1)": lambda x: x.view(x.shape[0], -1),
    "reshape tuple": lambda x: x.reshape((x.size(0), -1)),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "flatten twice": lambda x: x.flatten(2).flatten(1),
    "permuted": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "transposed": lambda x: x.flatten(2).transpose(1, 2).flatten(1),
    "numel": lambda x: x.view(x.shape[0], x.numel() // x.shape[0]),
    "unpacked": lambda x: _unpacked(x),
}


def _unpacked(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, c * h * w)


@pytest.mark.parametrize("name", FLATTEN)
def test_every_way_of_flattening(name: str) -> None:
    flatten = FLATTEN[name]

    def body(m: Any, x: Tensor) -> Any:
        return m.fc(flatten(x))

    model = Around(body, fc=nn.Linear(4 * 12 * 12, 5))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    image = torch.randn(2, 3, 8, 8)
    assert_same_outputs(small, Around(body, fc=nn.Linear(4 * 8 * 8, 5)), image)
    assert_gradients_reach_every_parameter(small, image)
    (interface,) = small.plan.interfaces
    assert (interface.channels, interface.target_size, interface.pretrain_size) == (
        4,
        (12, 12),
        (8, 8),
    )
    assert small.get_submodule("fc").in_features == 256


def test_a_hard_coded_view() -> None:
    model = Around(lambda m, x: m.fc(x.view(-1, 4 * 12 * 12)), fc=nn.Linear(576, 5))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(lambda m, x: m.fc(x.view(-1, 256)), fc=nn.Linear(256, 5))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))
    assert small(torch.zeros(7, 3, 8, 8)).shape == (7, 5)


def test_nn_flatten_in_a_sequential() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 5, padding=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 5)
    )
    small = fxscale.downscale(model, 8, target_size=12)
    by_hand = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))


def test_a_functional_linear_layer() -> None:
    class Functional(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.weight = nn.Parameter(torch.randn(5, 4 * size * size))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.conv(x).flatten(1), self.weight)

    small = fxscale.downscale(Functional(12), 8, target_size=12)
    assert_same_outputs(small, Functional(8), torch.randn(2, 3, 8, 8))


def test_a_linear_layer_over_channels_is_no_interface() -> None:
    body: Any = lambda m, x: m.fc(x.permute(0, 2, 3, 1))
    model = Around(body, fc=nn.Linear(4, 6))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert small.plan.interfaces == ()
    assert_same_outputs(small, Around(body, fc=nn.Linear(4, 6)), torch.randn(2, 3, 8, 8))
    assert small.plan.dense_macs == (12 * 12 * 4 * 6, 8 * 8 * 4 * 6)


def test_an_interface_used_twice_on_one_map() -> None:
    body: Any = lambda m, x: m.fc(x.flatten(1)) + m.fc(x.relu().flatten(1))
    model = Around(body, fc=nn.Linear(576, 5))
    assert len(sites_of(model).interfaces) == 1
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body, fc=nn.Linear(256, 5)), torch.randn(2, 3, 8, 8))


def test_a_computed_weight_is_refused() -> None:
    model = Around(lambda m, x: F.linear(x.flatten(1), m.fc.weight * 2), fc=nn.Linear(576, 5))
    with pytest.raises(UnsupportedModelError, match="the weight is computed, not a parameter"):
        fxscale.downscale(model, 8, target_size=12)


def test_an_interface_whose_weight_a_hook_computes_is_refused() -> None:
    model = Around(
        lambda m, x: m.fc(x.flatten(1)), fc=torch.nn.utils.spectral_norm(nn.Linear(576, 5))
    )
    with pytest.raises(UnsupportedModelError, match="with a weight that a hook computes"):
        fxscale.downscale(model, 8, target_size=12)
    pooled = Around(
        lambda m, x: m.fc(x.mean((2, 3))), fc=torch.nn.utils.spectral_norm(nn.Linear(4, 5))
    )
    small = fxscale.downscale(pooled, 8, target_size=12)
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 5)
