"""Spatial transformers and warps by a flow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.fxscale.checks import assert_compiles
from tests.passes.networks import Around, assert_same_outputs


def transformed(m: Any, x: Tensor) -> Tensor:
    theta = m.theta(x.mean((2, 3))).view(-1, 2, 3)
    grid = F.affine_grid(theta, x.size(), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def halved(m: Any, x: Tensor) -> Tensor:
    """Sampled at the places of a smaller map."""
    theta = m.theta(x.mean((2, 3))).view(-1, 2, 3)
    grid = F.affine_grid(theta, F.max_pool2d(x, 2).shape, align_corners=True)
    return F.grid_sample(x, grid, "nearest", "border", align_corners=True)


def warped(m: Any, x: Tensor) -> Tensor:
    """By a flow in parts of the image, which a convolution computes."""
    rows, columns = (torch.linspace(-1, 1, n, device=x.device) for n in x.shape[2:])
    places = torch.stack(
        (columns.expand(x.shape[2], -1), rows[:, None].expand(-1, x.shape[3])), dim=-1
    )
    flow = m.flow(x).permute(0, 2, 3, 1)
    return F.grid_sample(x, places + flow.tanh(), align_corners=True)


BODIES = {"transformer": transformed, "smaller": halved, "flow": warped}


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"theta": nn.Linear(4, 6), "flow": nn.Conv2d(4, 2, 1)}


@pytest.mark.parametrize("name", BODIES)
def test_sampled_maps(name: str) -> None:
    """Nothing in them depends on the size: the small network is the same code on small images."""
    assert_compiles(Around(BODIES[name], **layers()), 12, 8)
    model = Around(BODIES[name], **layers())
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(BODIES[name], **layers()), torch.randn(3, 3, 8, 8))


def test_volumes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 4, 3, padding=1)
            self.theta = nn.Linear(4, 12)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            theta = self.theta(x.mean((2, 3, 4))).view(-1, 3, 4)
            grid = F.affine_grid(theta, x.size(), align_corners=False)
            return F.grid_sample(x, grid, align_corners=False)

    assert_compiles(Net(), 12, 8)


def test_a_grid_of_a_fixed_size_is_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        theta = m.theta(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, [x.shape[0], 4, 12, 12], align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    with pytest.raises(UnsupportedModelError, match="no feature map's") as caught:
        fxscale.downscale(Around(body, **layers()), 8, target_size=12)
    assert "x.size()" in caught.value.remedy
