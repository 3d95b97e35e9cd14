"""What `torch.compile` has compiled in a model is traced as it was written, and stays compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxscale
from tests.passes.networks import Around, assert_same_outputs

COMPILED: list[fx.GraphModule] = []


def backend(graph: fx.GraphModule, _: Any) -> Callable[..., Any]:
    COMPILED.append(graph)
    return graph.forward


def act(x: Tensor) -> Tensor:
    return x * x.sigmoid()


class Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    @torch.compile(backend=backend)
    def forward(self, x: Tensor) -> Tensor:
        return act(self.conv(x))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return act(self.conv(x))


def in_place() -> nn.Module:
    block = Plain()
    block.compile(backend=backend)
    return block


compiled_act = torch.compile(act, backend=backend)
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "a module": lambda: torch.compile(Plain(), backend=backend),
    "a method": Method,
    "in place": in_place,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_entered(name: str) -> None:
    model = Around(lambda m, x: m.block(x), block=BLOCKS[name]())
    COMPILED.clear()
    small = fxscale.downscale(model, 8, target_size=12, kernels={"*": 3})
    assert len(small.plan.convs) == 2
    by_hand = Around(lambda m, x: m.block(x), block=Plain())
    state = {key.replace("_orig_mod.", ""): value for key, value in small.state_dict().items()}
    by_hand.load_state_dict(state)
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(small(image), by_hand(image))
    model.load_state_dict(fxscale.upscale_state(small))
    assert not COMPILED


def test_functions_are_entered_and_stay_compiled() -> None:
    model = Around(lambda m, x: compiled_act(x))
    COMPILED.clear()
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(lambda m, x: act(x)), torch.randn(2, 3, 8, 8))
    assert not COMPILED
    model(torch.randn(2, 3, 12, 12))
    assert len(COMPILED) == 1


def test_wrapped_networks_are_refused() -> None:
    wrapped = torch.compile(Plain(), backend=backend)
    with pytest.raises(fxscale.UnsupportedModelError, match=r"model\._orig_mod"):
        fxscale.downscale(wrapped, 8, target_size=12)
