"""Normalisation over feature maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from tests.passes.networks import Around, assert_same_outputs


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_layer_norm_over_the_map(rows: int) -> None:
    body: Any = lambda m, x: m.norm(x).mean((2, 3))
    model = Around(body, norm=nn.LayerNorm((4, 12, 12)[3 - rows :]))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(body, norm=nn.LayerNorm((4, 8, 8)[3 - rows :]))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))
    large = fxscale.upscale_state(small)
    assert torch.equal(large["norm.weight"], torch.ones((4, 12, 12)[3 - rows :]))


def test_rms_norm_over_the_map() -> None:
    body: Any = lambda m, x: F.rms_norm(m.norm(x), x.shape[2:]).mean((2, 3))
    model = Around(body, norm=nn.RMSNorm((4, 12, 12)))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(body, norm=nn.RMSNorm((4, 8, 8)))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))
    assert torch.equal(fxscale.upscale_state(small)["norm.weight"], torch.ones(4, 12, 12))


def test_layer_norm_over_channels_stays() -> None:
    body: Any = lambda m, x: m.norm(x.permute(0, 2, 3, 1))
    small = fxscale.downscale(Around(body, norm=nn.LayerNorm(4)), 8, target_size=12)
    assert small.get_parameter("norm.weight").shape == (4,)
    assert small.get_submodule("norm").normalized_shape == (4,)


class Functional(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(3, 4, 1)
        self.weight = nn.Parameter(torch.randn(4, size, size))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(self.conv(x), (4, self.size, self.size), self.weight)


def test_functional_layer_norm() -> None:
    small = fxscale.downscale(Functional(12), 8, target_size=12)
    assert_same_outputs(small, Functional(8), torch.randn(2, 3, 8, 8))
