from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.passes import chains
from fxscale.plan import ScalePlan
from fxscale.plan_layout import layout


def two(first: str = "a", second: str = "b") -> nn.Module:
    convolutions = {first: nn.Conv2d(3, 4, 3, padding=1), second: nn.Conv2d(4, 3, 3, padding=1)}

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential()
            for name, convolution in convolutions.items():
                self.body.add_module(name, convolution)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = x + self.body(x)
            return result

    return Two()


def plan(model: nn.Module, size: int = 8) -> ScalePlan:
    return fxscale.downscale(model, size, target_size=12).plan


def test_a_network_compiled_again_has_the_same_layout() -> None:
    first = plan(two())
    assert layout(first) == layout(plan(two()))
    assert layout(first) == layout(ScalePlan.from_json(first.to_json()))
    assert layout(first) == layout(plan(two("c", "d")))  # names do not count


def test_other_paddings_are_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights fit, the outputs differ."""
    torch.manual_seed(0)
    model, image = two(), torch.randn(2, 3, 8, 8)
    now = fxscale.downscale(model, 8, target_size=12)
    monkeypatch.setattr(chains, "TIE_COST", -chains.TIE_COST)  # p = 1 first, as it once was
    before = fxscale.downscale(model, 8, target_size=12)
    before.load_state_dict(now.state_dict())

    assert not torch.allclose(now(image), before(image))
    assert layout(now.plan) != layout(before.plan)


def test_another_image_size_is_another_layout() -> None:
    assert layout(plan(two(), 8)) != layout(plan(two(), 9))
