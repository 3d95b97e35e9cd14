"""Verify: a pre-train network that is not what was planned does not get out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from fxscale.passes import pipeline
from fxscale.passes.ops import registry
from fxscale.passes.ops.registry import Call, handles
from tests.passes.networks import Around, assert_same_outputs


def test_a_wrong_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pipeline.rewrite

    def sabotage(*args: Any, **kwargs: Any) -> fxscale.PretrainNetwork:
        small = original(*args, **kwargs)
        small.get_submodule("conv").padding = (3, 3)
        return small

    monkeypatch.setattr(pipeline, "rewrite", sabotage)
    with pytest.raises(
        UnsupportedModelError,
        match=r"'conv' has the shape \(2, 4, 1[34], 1[34]\) in the pre-train network where "
        r"\(2, 4, [89], [89]\) was planned",
    ):
        fxscale.downscale(Around(lambda m, x: x), 8, target_size=12)


def test_a_wrong_state_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pipeline.rewrite

    def sabotage(*args: Any, **kwargs: Any) -> fxscale.PretrainNetwork:
        small = original(*args, **kwargs)
        small.register_buffer("surplus", torch.zeros(3))
        return small

    monkeypatch.setattr(pipeline, "rewrite", sabotage)
    with pytest.raises(
        UnsupportedModelError,
        match=r"first at 'surplus': planned None, found \(3,\)",
    ):
        fxscale.downscale(Around(lambda m, x: x), 8, target_size=12)


def test_a_layer_that_fails_is_named() -> None:
    class Fixed(nn.Module):
        """Claims to keep its input's shape, but accepts 12 pixels alone."""

        def forward(self, x: Tensor) -> Tensor:
            return F.pad(x, (0, 0)) + torch.zeros(12)

    known = dict(registry._REGISTRY)
    try:

        @handles(Fixed)
        def keep(call: Call) -> Any:
            return call.annotation("input")

        model = Around(lambda m, x: m.fixed(x), fixed=Fixed())
        with pytest.raises(UnsupportedModelError, match=r"'fixed' fails in the pre-train network"):
            fxscale.downscale(model, 8, target_size=12)
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(known)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: torch.stack([sample.relu() for sample in x]),
        lambda m, x: torch.stack([x[i] for i in range(len(x))]),
        lambda m, x: x * (0, 1, 2, 3)[x.shape[0]],
    ],
)
def test_a_batch_size_taken_as_a_python_number(body: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"is 2.* at the target size and 3.* at a"):
        fxscale.downscale(Around(body), 8, target_size=12)


def test_channels_may_be_taken_as_a_python_number() -> None:
    body: Any = lambda m, x: torch.stack([x[:, i] for i in range(x.shape[1])], 1)
    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={})
    assert_same_outputs(small, Around(body), torch.randn(3, 3, 8, 8))


def test_a_size_taken_as_a_python_number() -> None:
    def body(m: Around, x: Tensor) -> Tensor:
        return x * len(range(x.shape[2]))

    with pytest.raises(UnsupportedModelError, match=r"is 12 at the target size and \d at the pre-"):
        fxscale.downscale(Around(body), 8, target_size=12)


def test_nothing_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    # An image of 2 ** 40 pixels runs through all passes.
    model = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    small = fxscale.downscale(model, 2**19, target_size=2**20)
    assert small.plan.pretrain_size == (2**19, 2**19)
