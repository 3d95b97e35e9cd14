"""Sites: calls grouped by kernel, interfaces by weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, sites_of


def test_one_convolution_per_weight() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    sites = sites_of(nn.Sequential(conv, nn.ReLU(), conv, nn.Conv2d(3, 4, 1)))
    assert [(c.name, len(c.calls)) for c in sites.convolutions] == [("0", 2), ("3", 1)]
    assert sites.convolutions[0].kernel_size == (3, 3)
    assert sites.convolutions[0].stride == (1, 1)


def test_fixed_filters_are_not_learnable() -> None:
    class Blur(nn.Module):
        filter: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.register_buffer("filter", torch.full((4, 1, 3, 3), 1 / 9))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(self.conv(x), self.filter, stride=2, padding=1, groups=4)

    learnable = {c.weight: c.learnable for c in sites_of(Blur()).convolutions}
    assert learnable == {"conv.weight": True, "filter": False}
    small = fxscale.downscale(Blur(), 8, target_size=12)
    assert torch.equal(small.get_buffer("filter"), torch.full((4, 1, 3, 3), 1 / 9))
    assert small(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 4, 4)


def test_a_kernel_over_the_whole_map_is_tied_to_it() -> None:
    sites = sites_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 12)))
    first, second = sites.convolutions
    assert first.tied(0) == ()
    assert [axis.target for axis in second.tied(0)] == [12]


def test_interfaces_are_the_linear_layers_over_maps() -> None:
    body: Any = lambda m, x: m.head(m.fc(x.flatten(1)))
    sites = sites_of(Around(body, fc=nn.Linear(576, 6), head=nn.Linear(6, 5)))
    assert [site.name for site in sites.interfaces] == ["fc"]
    assert [site.name for site in sites.linears] == ["fc", "head"]


def test_a_linear_layer_over_two_maps_is_refused() -> None:
    body: Any = lambda m, x: m.fc(x.flatten(1)) + m.fc(x.permute(0, 2, 3, 1).flatten(1))
    with pytest.raises(UnsupportedModelError, match="'fc' reads two different feature maps"):
        sites_of(Around(body, fc=nn.Linear(576, 5)))


def test_convolutions_that_no_image_reaches() -> None:
    class Unreached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    with pytest.raises(UnsupportedModelError, match="no convolution is reached"):
        sites_of(Unreached())


def test_a_kernel_that_covers_the_map_in_one_call_only() -> None:
    body: Any = lambda m, x: m.whole(x).mean((2, 3)) + m.whole(F.pad(x, (1, 1, 1, 1))).mean((2, 3))
    with pytest.raises(UnsupportedModelError, match="covers the whole map in one call and not in"):
        sites_of(Around(body, whole=nn.Conv2d(4, 5, 12)))
