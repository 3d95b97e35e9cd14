"""`torch.autograd.Function`s that are registered stay whole, with the backward that they have."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.applied import Applied
from fxscale.errors import UnsupportedModelError
from fxscale.passes.ops import registry
from tests.passes.networks import assert_gradients_reach_every_parameter


class Reversed(torch.autograd.Function):
    """The gradient reversal of domain-adversarial training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


class Rounded(torch.autograd.Function):
    """Rounds, and lets the gradient through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(8 * x) / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Adversarial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.label, self.domain = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = Rounded.apply(self.conv(x)).mean((2, 3))
        return torch.cat([self.label(features), self.domain(Reversed.apply(features, 0.5))], 1)


@pytest.fixture
def registered() -> Iterator[None]:
    known = dict(registry._REGISTRY)
    fxscale.register(Rounded)(lambda call: call.annotation("input"))
    fxscale.register(Reversed, params="input strength")(lambda call: call.annotation("input"))
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(known)


def test_the_class_to_register_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Rounded is a torch\.autograd\.Function"):
        fxscale.downscale(Adversarial(), 8, target_size=12)


def test_outputs_and_gradients_are_those_of_the_target(registered: None) -> None:
    target = Adversarial()
    same = fxscale.downscale(target, 12, target_size=12, kernels={})
    image = torch.randn(2, 3, 12, 12)
    for network in (target, same):
        network(image).square().sum().backward()
    assert torch.equal(same(image), target(image))
    for name, parameter in target.named_parameters():
        assert torch.equal(same.get_parameter(name).grad, parameter.grad), name


def test_the_pretrain_network_calls_them_and_lives_as_any_other(registered: None) -> None:
    target = Adversarial()
    small = fxscale.downscale(target, 8, target_size=12)
    image = torch.randn(2, 3, 8, 8)
    assert_gradients_reach_every_parameter(small, image)
    for copied in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(copied(image), small(image))
    compiled = torch.compile(small, backend="aot_eager")
    torch.testing.assert_close(compiled(image), small(image))
    target.load_state_dict(fxscale.upscale_state(small))


def test_a_call_is_known_by_its_function() -> None:
    assert Applied(Rounded) == Applied(Rounded) != Applied(Reversed)
    assert len({Applied(Rounded), Applied(Rounded)}) == 1
