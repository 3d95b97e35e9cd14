"""Decisions by whether gradients are recorded: of no effect, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around


def _by_mode(m: Any, x: Tensor) -> Tensor:
    return 2 * x if torch.is_grad_enabled() else x


def _by_tensor(m: Any, x: Tensor) -> Tensor:
    return 2 * x if x.requires_grad else x


def _in_eval_mode(m: Any, x: Tensor) -> Tensor:
    return x if m.training or x.grad_fn is None else 2 * x


@pytest.mark.parametrize("body", [_by_mode, _by_tensor, _in_eval_mode])
def test_another_way_without_gradients_is_refused(body: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="where no gradients are recorded"):
        fxscale.downscale(Around(body), 8, target_size=12)


def _checkpointed(m: Any, x: Tensor) -> Any:
    if torch.is_grad_enabled() and x.requires_grad:
        return checkpoint(torch.relu, x, use_reentrant=False)
    return torch.relu(x)


def test_the_same_way_is_none() -> None:
    model = Around(_checkpointed)
    same = fxscale.downscale(model, 12, target_size=12, keep=["*"])
    image = torch.randn(2, 3, 12, 12)
    assert torch.equal(same(image), model(image))
    with torch.no_grad():
        assert torch.equal(same(image), model(image))


def test_torch_answers_as_before() -> None:
    before = torch.is_grad_enabled
    with pytest.raises(UnsupportedModelError):
        fxscale.downscale(Around(_by_mode), 8, target_size=12)
    assert torch.is_grad_enabled is before
