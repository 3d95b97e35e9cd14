"""`nn.MultiheadAttention` over the pixels of a map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, assert_same_outputs


def own(m: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    mixed, _ = m.attend(tokens, tokens, tokens, need_weights=False)
    return mixed.mean(1)


def reduced(m: Any, x: Tensor) -> Tensor:
    """Keys and values from a smaller map, the pixels first, and the weights used, too."""
    tokens = x.flatten(2).permute(2, 0, 1)
    fewer = F.max_pool2d(x, 2).flatten(2).permute(2, 0, 1)
    mixed, weights = m.first(tokens, fewer, fewer)
    return torch.cat([mixed.mean(0), weights.amax((1, 2)).unsqueeze(1)], 1)


BODIES = {"own": own, "reduced": reduced}


def around(body: Any) -> Around:
    return Around(
        body,
        attend=nn.MultiheadAttention(4, 2, batch_first=True),
        first=nn.MultiheadAttention(4, 2),
    )


@pytest.mark.parametrize("name", BODIES)
def test_attention_over_pixels(name: str) -> None:
    small = fxscale.downscale(around(BODIES[name]), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, around(BODIES[name]), torch.randn(2, 3, 8, 8))
    same = fxscale.downscale(around(BODIES[name]), 12, target_size=12, kernels={})
    assert_same_outputs(same, around(BODIES[name]), torch.randn(2, 3, 12, 12))


def test_a_mask_over_pixels_is_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed: Tensor = m.attend(tokens, tokens, tokens, attn_mask=torch.ones(144, 144))[0]
        return mixed

    with pytest.raises(UnsupportedModelError, match="a mask over pixels belongs to one size"):
        fxscale.downscale(around(body), 8, target_size=12)
