"""Constants of the target (position biases, masks, grids) where they meet a feature map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.constants import resize_constant
from tests.passes.networks import (
    assert_gradients_reach_every_parameter,
    assert_identical_at_its_own_size,
)

Body = Callable[[Any, Tensor], Tensor]


class OverMap(nn.Module):
    """A 1x1 convolution to four channels, then `body(self, features)`.

    `table` has an entry per pair of row distance and column distance on a map of 12x12 pixels,
    `index` the entry for every pair of pixels; `grid` is an image of parameters.
    """

    index: Tensor
    mask: Tensor
    blocked: Tensor

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.table = nn.Parameter(torch.randn(2, 144))
        self.grid = nn.Parameter(torch.randn(1, 12, 12, 4))
        rows, columns = torch.arange(144) // 12, torch.arange(144) % 12
        far = (rows[:, None] - rows).abs() * 12 + (columns[:, None] - columns).abs()
        self.register_buffer("index", far, persistent=False)
        self.register_buffer("mask", torch.randn(12, 12) > 0)
        self.register_buffer("blocked", torch.zeros(12, 12).masked_fill(self.mask, float("-inf")))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.conv(x))


def heads(x: Tensor) -> tuple[Tensor, Tensor]:
    tokens = x.flatten(2).transpose(1, 2)
    n, pixels, c = tokens.shape
    return tokens.reshape(n, pixels, 2, c // 2).transpose(1, 2), x


def back(mixed: Tensor, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return mixed.transpose(1, 2).reshape(n, h * w, c).transpose(1, 2).reshape(n, c, h, w)


def biased_attention(m: OverMap, x: Tensor) -> Tensor:
    q, _ = heads(x)
    weights = (q @ q.transpose(-2, -1) + m.table[:, m.index]).softmax(-1)
    return back(weights @ q, x)


def fused_attention(m: OverMap, x: Tensor) -> Tensor:
    q, _ = heads(x)
    return back(F.scaled_dot_product_attention(q, q, q, attn_mask=m.table[:, m.index]), x)


def expanded_attention(m: OverMap, x: Tensor) -> Tensor:
    q, _ = heads(x)
    bias = m.table[:, m.index].unsqueeze(0).expand(x.shape[0], -1, -1, -1)
    return back((q @ q.transpose(-2, -1) + bias).softmax(-1) @ q, x)


def repeated_attention(m: OverMap, x: Tensor) -> Tensor:
    q, _ = heads(x)
    bias = m.table[:, m.index].repeat(x.shape[0], 1, 1, 1)
    return back((q @ q.transpose(-2, -1) + bias).softmax(-1) @ q, x)


def masked_attention(m: OverMap, x: Tensor) -> Tensor:
    q, _ = heads(x)
    blocked = m.blocked.flatten()
    return back((q @ q.transpose(-2, -1) + blocked).softmax(-1) @ q, x)


def with_class_token(m: OverMap, x: Tensor, positions: Tensor) -> Tensor:
    """Attention over pixels and a token; `positions`, `(1 + pixels, 4)`, are added to them."""
    pixels = x.flatten(2).mT
    tokens = torch.cat([pixels.mean(1, keepdim=True), pixels], 1) + positions.unsqueeze(0)
    return (tokens @ tokens.mT).softmax(-1)[:, :1] @ tokens


def on_rows(t: Tensor, small: int) -> Tensor:
    """Linear interpolation of the last dimension, by its definition."""
    large = t.shape[-1]
    rows = []
    for i in range(small):
        x = min(max((i + 0.5) * large / small - 0.5, 0.0), large - 1.0)
        low = int(x)
        high = min(low + 1, large - 1)
        rows.append(t[..., low] * (1 - (x - low)) + t[..., high] * (x - low))
    return torch.stack(rows, -1)


def on_pixels(t: Tensor, small: int) -> Tensor:
    """The same over the two axes of a last dimension of 144 flattened pixels."""
    image = t.reshape(*t.shape[:-1], 12, 12)
    return on_rows(on_rows(image, small).mT, small).mT.flatten(-2)


def nearest(t: Tensor, small: int) -> Tensor:
    """The nearest entries over both of the last two dimensions."""
    rows = [int((i + 0.5) * t.shape[-1] / small) for i in range(small)]
    return t[..., rows, :][..., rows]


def small_bias(m: OverMap) -> Tensor:
    bias = m.table[:, m.index]
    return on_pixels(on_pixels(bias, 8).mT, 8).mT


def expected_biased(m: OverMap, x: Tensor) -> Tensor:
    q, _ = heads(x)
    return back((q @ q.mT + small_bias(m)).softmax(-1) @ q, x)


def expected_fused(m: OverMap, x: Tensor) -> Tensor:
    q, _ = heads(x)
    return back((q @ q.mT * 2**-0.5 + small_bias(m)).softmax(-1) @ q, x)


def expected_masked(m: OverMap, x: Tensor) -> Tensor:
    q, _ = heads(x)
    return back((q @ q.mT + nearest(m.blocked, 8).flatten()).softmax(-1) @ q, x)


def small_grid(m: OverMap) -> Tensor:
    return on_pixels((2 * m.grid).permute(0, 3, 1, 2).flatten(2), 8).reshape(1, 4, 8, 8)


def positions_of(m: OverMap) -> Tensor:
    """Those of a token and the pixels, `(1 + 144, 4)`."""
    return torch.cat([m.grid.mean((1, 2)), 2 * m.grid.flatten(1, 2)[0]])


def token_positions(m: OverMap, x: Tensor) -> Tensor:
    return with_class_token(m, x, positions_of(m))


def expected_positions(m: OverMap, x: Tensor) -> Tensor:
    token, pixels = positions_of(m).split([1, 144])
    return with_class_token(m, x, torch.cat([token, on_pixels(pixels.mT, 8).mT]))


CASES: dict[str, tuple[Body, Body]] = {
    "positions of a class token and pixels": (token_positions, expected_positions),
    "relative position bias": (biased_attention, expected_biased),
    "bias for every sample, expanded": (expanded_attention, expected_biased),
    "bias for every sample, repeated": (repeated_attention, expected_biased),
    "bias as attn_mask": (fused_attention, expected_fused),
    "mask of infinities": (masked_attention, expected_masked),
    "arithmetic and permute": (
        lambda m, x: x * (2 * m.grid).permute(0, 3, 1, 2),
        lambda m, x: x * small_grid(m),
    ),
    "boolean buffer": (
        lambda m, x: x.masked_fill(m.mask, 0.0),
        lambda m, x: x.masked_fill(nearest(m.mask, 8), 0.0),
    ),
    "computed mask": (
        lambda m, x: torch.where(m.blocked < 0, x, -x),
        lambda m, x: torch.where(nearest(m.blocked, 8) < 0, x, -x),
    ),
    "index_select": (
        lambda m, x: x + m.grid.permute(0, 3, 1, 2).index_select(2, m.index[0, :12]),
        lambda m, x: x + small_grid(m) / 2,
    ),
    "expanded to the lengths of a map": (
        lambda m, x: x + (2 * m.grid).permute(0, 3, 1, 2).expand(*x.shape),
        lambda m, x: x + small_grid(m),
    ),
    "expanded to the size of a map": (
        lambda m, x: x + (2 * m.grid).permute(0, 3, 1, 2).expand(x.shape),
        lambda m, x: x + small_grid(m),
    ),
    "viewed as the size of a map": (
        lambda m, x: x + (2 * m.grid).permute(0, 3, 1, 2).flatten(1).view(x[:1].size()),
        lambda m, x: x + small_grid(m),
    ),
    "unflattened to a part of a map's size": (
        lambda m, x: x + (2 * m.grid).flatten(1, 2).mT.unflatten(2, x.shape[2:]),
        lambda m, x: x + small_grid(m),
    ),
    "rows, expanded to the lengths of a map": (
        lambda m, x: x + m.grid[:, :1].permute(0, 3, 1, 2).expand(*x.shape),
        lambda m, x: x + on_rows(m.grid[:, :1].permute(0, 3, 1, 2), 8),
    ),
    "viewed with the lengths of a map": (
        lambda m, x: x + (2 * m.grid).permute(0, 3, 1, 2).flatten(1).view(1, *x.shape[1:]),
        lambda m, x: x + small_grid(m),
    ),
    "unflattened with the lengths of a map": (
        lambda m, x: x + (2 * m.grid).flatten(1, 2).mT.unflatten(2, tuple(x.shape[2:])),
        lambda m, x: x + small_grid(m),
    ),
    "expanded to the number of pixels": (
        lambda m, x: (
            x
            + (2 * m.grid)
            .permute(0, 3, 1, 2)
            .flatten(2)
            .expand(x.shape[0], -1, x.shape[2] * x.shape[3])
            .reshape(*x.shape)
        ),
        lambda m, x: x + small_grid(m),
    ),
    "coordinates as channels": (
        lambda m, x: torch.cat(
            [x, (2 * m.grid).permute(0, 3, 1, 2).expand(x.shape[0], -1, -1, -1)], 1
        ),
        lambda m, x: torch.cat([x, small_grid(m).expand(x.shape[0], -1, -1, -1)], 1),
    ),
    "interpolated to a number": (
        lambda m, x: x + F.interpolate(m.grid.permute(0, 3, 1, 2), size=12, mode="nearest"),
        lambda m, x: x + small_grid(m) / 2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_constants_are_laid_over_the_small_map(name: str) -> None:
    body, expected = CASES[name]
    model = OverMap(body)
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert small.table.shape == (2, 144)
    by_hand = OverMap(expected)
    by_hand.load_state_dict(small.state_dict())
    for mode, batch in ((True, 2), (False, 3), (True, 1)):
        images = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(small.train(mode)(images), by_hand.train(mode)(images))
    model.load_state_dict(fxscale.upscale_state(small))


@pytest.mark.parametrize("name", CASES)
def test_the_same_size_is_the_target_bit_for_bit(name: str) -> None:
    same = assert_identical_at_its_own_size(OverMap(CASES[name][0]), 12)
    assert resize_constant not in {node.target for node in same.graph.nodes}


def test_gradients_flow_back_through_the_resized_bias() -> None:
    class Both(OverMap):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return biased_attention(self, x) + x * (2 * self.grid).permute(0, 3, 1, 2)

    small = fxscale.downscale(Both(biased_attention), 8, target_size=12)
    assert_gradients_reach_every_parameter(small, torch.randn(2, 3, 8, 8))


def test_one_operator_serves_all_layers_that_share_a_bias() -> None:
    def body(m: OverMap, x: Tensor) -> Tensor:
        bias = m.table[:, m.index]
        for _ in range(3):
            q, _ = heads(x)
            x = back((q @ q.mT + bias).softmax(-1) @ q, x)
        return x

    small = fxscale.downscale(OverMap(body), 8, target_size=12)
    assert [node.target for node in small.graph.nodes].count(resize_constant) == 1


def from_the_map(m: OverMap, x: Tensor) -> Tensor:
    rows = torch.arange(x.shape[2], dtype=torch.float32).unsqueeze(1).repeat(1, x.shape[3])
    ones = torch.ones((x.shape[0], x.shape[2], x.shape[3])).cumsum(2)
    return x + rows / x.shape[2] + ones.unsqueeze(1)


def test_what_is_made_from_sizes_has_the_right_one() -> None:
    model = OverMap(from_the_map)
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert resize_constant not in {node.target for node in small.graph.nodes}
    images = torch.randn(2, 3, 8, 8)
    model.load_state_dict(fxscale.upscale_state(small))
    torch.testing.assert_close(small(images), model(images))


def test_a_cache_of_the_bias_stays_with_the_target() -> None:
    class Cached(OverMap):
        def __init__(self) -> None:
            super().__init__(biased_attention)
            self.cache: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                bias = self.table[:, self.index]
            else:
                bias = self.cache.setdefault("bias", self.table[:, self.index])
            q, _ = heads(self.conv(x))
            return back((q @ q.mT + bias).softmax(-1) @ q, self.conv(x))

    model = Cached()
    small = fxscale.downscale(model, 8, target_size=12)
    assert model.cache == small.cache == {}
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(small.train()(images), small.eval()(images))


def test_a_map_indexed_by_a_tensor_is_refused() -> None:
    def body(m: OverMap, x: Tensor) -> Tensor:
        return x[:, :, m.index[0, :12]]

    with pytest.raises(fxscale.UnsupportedModelError, match="indexes a tensor with a tensor"):
        fxscale.downscale(OverMap(body), 8, target_size=12)
