"""Joins, outputs and heads. One small network each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from tests.fxscale.checks import assert_compiles, leaves
from tests.fxscale.small_networks import Net, pair


def conv(channels: int, out: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class Exchange(nn.Module):
    """HRNet: every resolution is the sum of all, resized."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 4)
        self.down = conv(4, 8, 2)
        self.high, self.low = pair(4, 4), pair(8, 8)
        self.high_to_low, self.low_to_high = conv(4, 8, 2), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        high, low = self.high(x), self.low(self.down(x))
        up = F.interpolate(self.low_to_high(low), size=high.shape[-2:], mode="nearest")
        return [high + up, low + self.high_to_low(high)]


class FeaturePyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 4, 2), conv(4, 6, 2), conv(6, 8, 2)])
        self.lateral = nn.ModuleList([nn.Conv2d(c, 5, 1) for c in (4, 6, 8)])
        self.smooth = nn.ModuleList([nn.Conv2d(5, 5, 3, padding=1) for _ in range(3)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        out = [self.lateral[2](features[2])]
        for i in (1, 0):
            up = F.interpolate(out[0], scale_factor=2.0, mode="nearest")
            out.insert(0, self.lateral[i](features[i]) + up)
        smoothed = [layer(f) for layer, f in zip(self.smooth, out, strict=True)]
        return {f"p{i}": f for i, f in enumerate(smoothed)}


class FlattenedPyramid(FeaturePyramid):
    """A detection head: one convolution for all levels, whose pixels are put in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(5, 2 * 3, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        rows = []
        for level in super().forward(x).values():
            y = self.scores(level)
            n, _, h, w = y.shape
            rows.append(y.view(n, 2, 3, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 3))
        return torch.cat(rows, dim=1)


class UNet(nn.Module):
    """Skips are cropped to what comes from below, as in the first one, or pad it, as in most."""

    def __init__(self, *, crop: bool) -> None:
        super().__init__()
        self.crop = crop
        padding = 0 if crop else 1
        self.a = nn.Conv2d(3, 4, 3, padding=padding)
        self.b = nn.Conv2d(4, 6, 3, padding=padding)
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)
        self.c = nn.Conv2d(8, 2, 3, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.a(x))
        y = self.up(F.relu(self.b(F.max_pool2d(skip, 2))))
        high, wide = skip.size(2) - y.size(2), skip.size(3) - y.size(3)
        if self.crop:
            top, left = high // 2, wide // 2
            skip = skip[:, :, top : top + y.size(2), left : left + y.size(3)]
        else:
            y = F.pad(y, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        out: Tensor = self.c(torch.cat([skip, y], dim=1))
        return out


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * s.sigmoid()


class SpatialGate(nn.Module):
    """CBAM's: one weight a pixel, from the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.conv(pooled).sigmoid()


class CoordinateAttention(nn.Module):
    """Rows and columns are pooled, put one behind the other, convolved and taken apart again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.both = nn.Conv2d(channels, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.rows, self.columns = nn.Conv2d(3, channels, 1), nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        rows = x.mean(3, keepdim=True)
        columns = x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        y = F.hardswish(self.norm(self.both(torch.cat([rows, columns], dim=2))))
        rows, columns = torch.split(y, [h, w], dim=2)
        gates = self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid()
        return x * gates


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3 + 2 * i, 2, 3, padding=1) for i in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(F.relu(layer(torch.cat(features, 1))))
        return torch.cat(features, 1)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = conv(3, 2, kernel=1)
        self.five = nn.Sequential(conv(3, 2, kernel=1), conv(2, 3, kernel=5))
        self.tall = nn.Sequential(nn.Conv2d(3, 2, (1, 7), padding=(0, 3)))
        self.split = nn.Sequential(nn.Conv2d(2, 2, (7, 1), padding=(3, 0)))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(3, 2, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        tall = self.tall(x)
        return torch.cat([self.one(x), self.five(x), self.split(tall), self.pool(x)], 1)


class Strides(nn.Module):
    """Maps of three provenances meet: two convolutions, a pool and a patch layer."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Sequential(conv(3, 4, 2), conv(4, 4, 2))
        self.fast = nn.Conv2d(3, 4, 4, 4)
        self.pool = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.slow(x) * self.fast(x).sigmoid() + self.pool(x)


class Tokens(nn.Module):
    """Class and distillation token, position embedding over all of them, attention, two heads."""

    def __init__(self, prefix: int = 2) -> None:
        super().__init__()
        self.prefix = prefix
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.stem = nn.Conv2d(3, 3, 3, padding=1)
        self.tokens = nn.Parameter(torch.randn(1, prefix, 8))
        self.position = nn.Parameter(torch.randn(1, prefix + 36, 8))
        self.qkv = nn.Linear(8, 24)
        self.head, self.other = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch(self.stem(x))
        n, c, h, w = x.shape
        x = torch.cat((self.tokens.expand(n, -1, -1), x.flatten(2).transpose(1, 2)), dim=1)
        x = x + self.position
        q, k, v = self.qkv(x).reshape(n, h * w + self.prefix, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, c)
        x = x + y
        return (
            self.head(x[:, 0]),
            self.other(x[:, self.prefix :].mean(1)),
            x[:, self.prefix :].transpose(1, 2).reshape(n, c, h, w),
        )


JOINS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "dense": (Dense, 24, 16),
    "inception": (Inception, 24, 16),
    "u-net with crops": (lambda: UNet(crop=True), 36, 24),
    "u-net with pads": (lambda: UNet(crop=False), 25, 17),
    "feature pyramid": (FeaturePyramid, 48, 32),
    "flattened pyramid": (FlattenedPyramid, 48, 32),
    "exchange of resolutions": (Exchange, 24, 16),
    "squeeze and excite": (lambda: nn.Sequential(conv(3, 4), SqueezeExcite(4)), 12, 8),
    "spatial gate": (lambda: nn.Sequential(conv(3, 4), SpatialGate()), 12, 8),
    "coordinate attention": (lambda: nn.Sequential(conv(3, 4), CoordinateAttention(4)), 12, 8),
    "joins across strides": (Strides, 24, 16),
    "tokens": (Tokens, 24, 16),
}


@pytest.mark.parametrize("name", JOINS)
def test_joins_and_outputs(name: str) -> None:
    factory, target, small = JOINS[name]
    assert_compiles(factory(), target, small)


def test_maps_that_are_returned_scale_with_the_input() -> None:
    small = fxscale.downscale(FeaturePyramid(), 32, target_size=48)
    sizes = [tuple(t.shape[2:]) for t in leaves(small(torch.randn(1, 3, 32, 32)))]
    assert sizes == [(16, 16), (8, 8), (4, 4)]
    pyramid = fxscale.downscale(FlattenedPyramid(), 32, target_size=48)
    assert pyramid(torch.randn(1, 3, 32, 32)).shape == (1, 2 * (256 + 64 + 16), 3)


def test_position_embeddings_keep_their_prefix() -> None:
    model = Tokens()
    with torch.no_grad():
        model.position[:, 2:] = 7.0
    small = fxscale.downscale(model, 16, target_size=24)
    assert small.get_parameter("position").shape == (1, 2 + 16, 8)
    assert torch.equal(small.get_parameter("position")[:, :2], model.position[:, :2])
    back = fxscale.upscale_state(small)["position"]
    torch.testing.assert_close(back, model.position.detach())


# Heads --------------------------------------------------------------------------------------------


class MultiScale(nn.Module):
    """LeNet-style: the first and the second stage are flattened into one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 5, 2, 2), nn.Conv2d(4, 5, 3, 2, 1)
        self.fc = nn.Linear(4 * 3 * 3 + 5 * 6 * 6 + 4, 7)

    def forward(self, x: Tensor) -> Any:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        parts = [F.max_pool2d(a, 4).flatten(1), b.flatten(1), a.mean((2, 3))]
        return self.fc(torch.cat(parts, dim=1))


class Branch(nn.Module):
    """A fully connected interface inside a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.gate = nn.Linear(4 * 12 * 12, 4)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return self.last(y * self.gate(y.reshape(y.size(0), -1)).sigmoid()[:, :, None, None])


class Several(nn.Module):
    """Interfaces in three orders of axes, one of them a convolution as large as its map."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(4 * 12 * 12, 3), nn.Linear(12 * 12 * 4, 3)
        self.fc3, self.fc4 = nn.Conv2d(4, 3, 12), nn.Linear(12 * 12, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        channels_last = y.permute(0, 2, 3, 1).flatten(1)
        pixels = self.fc4(y.view(y.shape[0], 4, -1)).mean(1)
        return self.fc1(y.flatten(1)) + self.fc2(channels_last) + self.fc3(y).flatten(1) + pixels


HEADS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "several flattened maps": (MultiScale, 24, 16),
    "in a branch": (Branch, 12, 8),
    "in several orders": (Several, 12, 8),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str) -> None:
    factory, target, small = HEADS[name]
    result = assert_compiles(factory(), target, small)
    assert result.plan.interfaces


def test_each_part_of_a_concatenated_head_is_resized_with_its_own_amplitude() -> None:
    """Constant weights over each map keep its response; those over single numbers are copied."""
    model = MultiScale()
    with torch.no_grad():
        for part, value in ((slice(0, 36), 1.0), (slice(36, 216), 2.0), (slice(216, 220), 3.0)):
            model.fc.weight[:, part] = value
    small = fxscale.downscale(model, 16, target_size=24, init="resample")
    sizes = [i.pretrain_size for i in small.plan.interfaces]
    assert [i.target_size for i in small.plan.interfaces] == [(3, 3), (6, 6)]
    ends = [0, 4 * sizes[0][0] ** 2, 4 * sizes[0][0] ** 2 + 5 * sizes[1][0] ** 2]
    weight = small.get_parameter("fc.weight")
    for begin, end, value in zip(ends, [*ends[1:], None], (9.0, 2 * 36.0, 3.0), strict=True):
        pixels = {9.0: sizes[0], 72.0: sizes[1], 3.0: (1, 1)}[value]
        expected = torch.full_like(weight[:, begin:end], value / (pixels[0] * pixels[1]))
        torch.testing.assert_close(weight[:, begin:end], expected)
    back = fxscale.upscale_state(small)["fc.weight"]
    torch.testing.assert_close(back, model.fc.weight.detach())


@pytest.mark.parametrize("factory", [MultiScale, Tokens])
def test_concatenations_go_through_plans_and_stages(factory: Callable[[], nn.Module]) -> None:
    model = factory()
    first, second = (fxscale.downscale(model, size, target_size=24) for size in (16, 20))
    assert fxscale.ScalePlan.from_json(first.plan.to_json()) == first.plan
    second.load_state_dict(fxscale.upscale_state(first, into=second))
    model.load_state_dict(fxscale.upscale_state(second))
    for mode in (True, False):
        outputs = leaves(model.train(mode)(torch.randn(2, 3, 24, 24)))
        assert all(bool(torch.isfinite(t).all()) for t in outputs)


def test_bilinear_pooling_is_a_mean_over_pixels() -> None:
    """The outer product of a map with itself: it must not depend on how many pixels there are."""

    def body(m: Any, x: Tensor) -> Any:
        flat = x.flatten(2)
        y = torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[2]
        return m.fc(F.normalize(y.flatten(1).sign() * y.flatten(1).abs().sqrt()))

    model = Net(body, fc=nn.Linear(16, 2))
    model.conv = nn.Conv2d(3, 4, 1)
    small = assert_compiles(model, 12, 8)
    image = torch.randn(2, 3, 1, 1)
    constant = image.expand(-1, -1, 12, 12)
    torch.testing.assert_close(small(constant[..., :8, :8]), model(constant))
