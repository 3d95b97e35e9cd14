from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.passes import chains
from fxscale.plan import PoolPlan, ScalePlan
from fxscale.plan_layout import layout, layout_of


class Residual(nn.Module):
    def __init__(self, first: str = "a", second: str = "b") -> None:
        super().__init__()
        self.body = nn.Sequential()
        self.body.add_module(first, nn.Conv2d(3, 4, 3, padding=1))
        self.body.add_module(second, nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


def plan(model: nn.Module, size: int = 8) -> ScalePlan:
    return fxscale.downscale(model, size, target_size=12).plan


def test_a_network_compiled_again_has_the_same_layout() -> None:
    first = plan(Residual())
    assert layout(first) == layout(plan(Residual()))
    assert layout(first) == layout(ScalePlan.from_json(first.to_json()))
    assert layout(first) == layout(plan(Residual("c", "d")))  # names do not count


def test_only_a_pretrain_network_has_one() -> None:
    small = fxscale.downscale(Residual(), 8, target_size=12)
    assert layout_of(small) == layout(small.plan)
    assert layout_of(Residual()) is None


def test_other_paddings_are_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights fit, the outputs differ."""
    torch.manual_seed(0)
    model, image = Residual(), torch.randn(2, 3, 8, 8)
    now = fxscale.downscale(model, 8, target_size=12)
    monkeypatch.setattr(chains, "LARGER_COST", -chains.LARGER_COST)  # p = 1 first
    before = fxscale.downscale(model, 8, target_size=12)
    before.load_state_dict(now.state_dict())

    assert not torch.allclose(now(image), before(image))
    assert layout(now.plan) != layout(before.plan)


def test_the_padding_of_a_max_pool_alone_makes_another_layout() -> None:
    now = plan(nn.Sequential(nn.Conv2d(3, 2, 3), nn.MaxPool2d(2)), 8)
    moved = PoolPlan("_1", "1", ((0, 0),) * 2, ((1, 1),) * 2)
    assert layout(replace(now, pools=(moved,))) != layout(now)


def test_another_image_size_is_another_layout() -> None:
    assert layout(plan(Residual(), 8)) != layout(plan(Residual(), 9))
