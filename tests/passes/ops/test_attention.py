"""Attention over the pixels of a feature map: followed where it does not depend on their number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attending(nn.Module):
    """A stem, `mix` over the pixels as tokens with two heads, back to a map, global pooling."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.qkv = nn.Linear(8, 24)
        self.conv = nn.Conv2d(8, 4, 3, padding=1)
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).reshape(n, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = self.mix(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        x = x + mixed.transpose(1, 2).reshape(n, c, h, w)
        return self.conv(x).mean((2, 3))


def softmax_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul((q @ k.transpose(-2, -1) * 0.5).softmax(-1), v)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.dropout(torch.softmax(q.matmul(k.mT), dim=3), 0.0).contiguous() @ v


@pytest.mark.parametrize("mix", [softmax_product, fused, dropped])
def test_attention_over_pixels_runs_at_the_small_size(mix: Mix) -> None:
    torch.manual_seed(0)
    model = Attending(mix)
    small = fxscale.downscale(model, 22, target_size=32)
    assert small.stem.kernel_size == (5, 5)
    images = torch.randn(3, 3, 22, 22)
    # The oracle: the same module, with the small network's own layers put in.
    twin = Attending(mix)
    twin.stem, twin.qkv, twin.conv = small.stem, small.qkv, small.conv
    padded = F.conv2d(images, small.stem.weight, small.stem.bias, stride=2, padding=1)
    assert small.stem(images).shape == padded.shape
    assert small(images).shape == (3, 4)
    if not small.plan.pad_operators:
        torch.testing.assert_close(small(images), twin(images), rtol=0, atol=0)
    model.load_state_dict(fxscale.upscale_state(small))


@pytest.mark.parametrize("mix", [softmax_product, fused, dropped])
def test_attention_is_the_targets_where_nothing_is_scaled(mix: Mix) -> None:
    torch.manual_seed(0)
    model = Attending(mix)
    same = fxscale.downscale(model, 32, target_size=32, kernels={})
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(same(images), model(images), rtol=0, atol=0)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.softmax(-1) @ (k.transpose(-2, -1) @ v)


def softmax_over_channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(1) @ v


@pytest.mark.parametrize("mix", [linear_attention, softmax_over_channels])
def test_a_sum_over_pixels_is_multiplied_by_what_the_target_has_more_of(mix: Mix) -> None:
    small = fxscale.downscale(Attending(mix), 16, target_size=32, kernels={"conv": 3, "stem": 7})

    def scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return mix(q, k, v) * (256 / 64)

    twin = Attending(scaled)
    twin.load_state_dict(small.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(small(images), twin(images))
