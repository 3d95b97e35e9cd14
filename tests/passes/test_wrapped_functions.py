"""Functions that `torch.fx.wrap` keeps whole, with and without a handler."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _wrapped_fns_to_patch

import fxscale
from fxscale.passes.ops import registry
from fxscale.passes.ops.registry import Call, handles
from tests.passes.networks import Around, assert_same_outputs


@fx.wrap
def to_tokens(x: Tensor, rank: int) -> tuple[Tensor, int]:
    """Branches on what fx does not know, and returns a number beside a tensor."""
    before = x.dim()
    if before == rank + 1:
        x = x.flatten(2)
    elif before != rank:
        raise ValueError(f"unsupported input {x.shape}")
    return x, before


@fx.wrap
def halved(x: Tensor) -> Tensor:
    return 0.5 * x


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens, rank = to_tokens(self.conv(x), 3)
        return tokens.mean(2) if rank == 4 else tokens


def test_they_are_entered_and_compile() -> None:
    small = fxscale.downscale(Tokens(), 8, target_size=12, kernels={"conv": 3})
    assert to_tokens not in {node.target for node in small.graph.nodes}
    assert_same_outputs(small, Tokens(), torch.randn(2, 3, 8, 8))


def test_fx_itself_keeps_them_whole_afterwards() -> None:
    fxscale.downscale(Tokens(), 8, target_size=12)
    kept = fx.symbolic_trace(Around(lambda m, x: halved(x)))
    assert halved in {node.target for node in kept.graph.nodes}
    assert {"halved", "to_tokens"} <= {name for _, name in _wrapped_fns_to_patch}


def test_one_with_a_handler_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @handles(halved, params="x")
    def same_shape(call: Call) -> fxscale.passes.axes.Annotation:
        return call.annotation("x")

    small = fxscale.downscale(Around(lambda m, x: halved(x)), 8, target_size=12)
    assert halved in {node.target for node in small.graph.nodes}
