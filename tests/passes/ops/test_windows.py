"""Views that take a spatial axis apart: windows, patches, space to depth, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import (
    Around,
    annotated,
    assert_gradients_reach_every_parameter,
    assert_same_outputs,
    layout,
)

Body = Callable[[Any, Tensor], Tensor]


def windows(x: Tensor, size: int) -> Tensor:
    """`(N, C, H, W)` to `(windows, size * size, C)`."""
    x = x.permute(0, 2, 3, 1)
    n, h, w, c = x.shape
    x = x.view(n, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, c)


def unwindow(t: Tensor, size: int, h: int, w: int) -> Tensor:
    x = t.view(-1, h // size, w // size, size, size, t.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, h, w, t.shape[-1]).permute(0, 3, 1, 2)


def mix(t: Tensor) -> Tensor:
    return (t @ t.transpose(-2, -1)).softmax(-1) @ t


def window_attention(size: int) -> Body:
    def body(m: Any, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        assert h % size == 0, f"{h} does not divide by {size}"
        return x + unwindow(mix(windows(x, size)), size, h, w)

    return body


def padded_attention(size: int) -> Body:
    def body(m: Any, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        below, right = (size - h % size) % size, (size - w % size) % size
        padded = F.pad(x, (0, right, 0, below))
        _, _, high, wide = padded.shape
        mixed = unwindow(mix(windows(padded, size)), size, high, wide)
        return x + mixed[:, :, :h, :w]

    return body


def branching_attention(size: int) -> Body:
    """As models write it that check whether the map is one window."""

    def body(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if h == size and w == size:
            return x + mix(x.flatten(2).mT).mT.reshape(n, c, h, w)
        below, right = (size - h % size) % size, (size - w % size) % size
        if below > 0 or right > 0:
            x = F.pad(x, (0, right, 0, below))
        high, wide = h + below, w + right
        t = x.view(n, c, high // size, size, wide // size, size).transpose(3, 4)
        t = t.reshape(n, c, (high // size) * (wide // size), size * size)
        t = mix(t.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        t = t.reshape(n, c, high // size, wide // size, size, size).transpose(3, 4)
        t = t.reshape(n, c, high, wide)
        return t[:, :, :h, :w] if below > 0 or right > 0 else t

    return body


def grid_attention(size: int) -> Body:
    def body(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        t = x.view(n, c, size, h // size, size, w // size).permute(0, 3, 5, 2, 4, 1)
        t = mix(t.reshape(n * (h // size) * (w // size), size * size, c))
        t = t.view(n, h // size, w // size, size, size, c).permute(0, 5, 3, 1, 4, 2)
        return x + t.reshape(n, c, h, w)

    return body


def biased_windows(size: int, bias_size: int) -> Body:
    def body(m: Any, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        t = windows(x, size)
        bias = m.bias.weight.reshape(bias_size**2, bias_size**2)
        if bias_size != size:
            image = bias.reshape(1, bias_size**2, bias_size, bias_size)
            image = F.interpolate(image, size=size, mode="bilinear")
            image = image.reshape(bias_size, bias_size, size**2).permute(2, 0, 1).unsqueeze(0)
            image = F.interpolate(image, size=size, mode="bilinear")
            bias = image.reshape(size**2, size**2).T
        mixed = (t @ t.mT + bias).softmax(-1) @ t
        return x + unwindow(mixed, size, h, w)

    return body


@pytest.mark.parametrize(
    "attention", [window_attention, padded_attention, branching_attention, grid_attention]
)
@pytest.mark.parametrize(
    ("window", "target", "small", "small_window"),
    [
        (7, 28, 20, 5),  # as many windows, each smaller
        (6, 12, 8, 4),
        (4, 12, 8, 4),  # 3 windows do not divide 8 pixels: fewer of them
        (5, 15, 10, 5),  # 10 / 3 is no window
        (7, 7, 5, 5),  # one window
    ],
)
def test_window_attention(
    attention: Callable[[int], Body], window: int, target: int, small: int, small_window: int
) -> None:
    model = Around(attention(window))
    compiled = fxscale.downscale(model, small, target_size=target, kernels={"conv": 3})
    assert_same_outputs(compiled, Around(attention(small_window)), torch.randn(3, 3, small, small))
    assert not compiled.plan.pad_operators
    assert_gradients_reach_every_parameter(compiled, torch.randn(1, 3, small, small))
    model.load_state_dict(fxscale.upscale_state(compiled))
    same = fxscale.downscale(model, target, target_size=target, kernels={})
    images = torch.randn(2, 3, target, target)
    assert torch.equal(same(images), model(images))


def test_windows_with_a_position_bias() -> None:
    model = Around(biased_windows(6, 6), bias=nn.Embedding(36, 36))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(biased_windows(4, 6), bias=nn.Embedding(36, 36))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("attention", [padded_attention, branching_attention])
def test_a_map_that_is_padded_to_whole_windows(attention: Callable[[int], Body]) -> None:
    # 13 pixels are padded to 3 windows of 5; 9 pixels to 3 windows of 3 or 2 of 5.
    model = Around(attention(5))
    small = fxscale.downscale(model, 10, target_size=13, kernels={"conv": 3})
    assert small(torch.randn(2, 3, 10, 10)).shape[2:] in {(10, 10), (12, 12)}
    model.load_state_dict(fxscale.upscale_state(small))
    same = fxscale.downscale(model, 13, target_size=13, kernels={})
    images = torch.randn(2, 3, 13, 13)
    assert torch.equal(same(images), model(images))


def by_hand_to_depth(m: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).contiguous()
    return m.after(x.view(n, c * 4, h // 2, w // 2))


def patches_to_linear(m: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).flatten(3)
    return m.after(x).permute(0, 3, 1, 2)


def unflattened(m: Any, x: Tensor) -> Tensor:
    x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
    return m.after(x.flatten(1, 3))


def normalised_patches(m: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 4 * c)
    return m.after(x)


def beside_channels(m: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    blocks = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    return torch.cat([blocks, F.max_pool2d(x, 2)], 1)


DEPTH: dict[str, tuple[Body, Callable[[], nn.Module]]] = {
    "by hand": (by_hand_to_depth, lambda: nn.Conv2d(16, 3, 1)),
    "unflatten": (unflattened, lambda: nn.Conv2d(16, 3, 1)),
    "Unflatten": (
        lambda m, x: m.after(m.apart(x).transpose(2, 3).flatten(1, 2)),
        lambda: nn.Conv2d(8, 3, (1, 1)),
    ),
    "into a linear layer": (patches_to_linear, lambda: nn.Linear(16, 3)),
    "into a LayerNorm": (normalised_patches, lambda: nn.LayerNorm(16)),
    "beside channels": (beside_channels, nn.Identity),
    "PixelUnshuffle": (lambda m, x: m.after(x), lambda: nn.PixelUnshuffle(2)),
    "pixel_unshuffle": (lambda m, x: m.after(F.pixel_unshuffle(x, 2)), lambda: nn.Conv2d(16, 3, 1)),
}


@pytest.mark.parametrize("name", DEPTH)
def test_blocks_that_become_channels_keep_their_size(name: str) -> None:
    body, after = DEPTH[name]
    model = Around(body, after=after(), apart=nn.Unflatten(2, (6, 2)))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(body, after=after(), apart=nn.Unflatten(2, (4, 2)))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))
    assert {k: v.shape for k, v in small.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    same = fxscale.downscale(model, 12, target_size=12, kernels={})
    images = torch.randn(2, 3, 12, 12)
    assert torch.equal(same(images), model(images))


def test_a_map_behind_blocks_goes_on_as_a_map() -> None:
    body: Body = lambda m, x: m.conv2(F.pixel_unshuffle(x, 2)).mean((2, 3))
    model = Around(body, conv2=nn.Conv2d(16, 3, 3, padding=1))
    small = fxscale.downscale(model, 16, target_size=24)
    assert small.conv2.kernel_size == (2, 2)
    by_name = {feature.node: feature for feature in small.plan.feature_maps}
    assert by_name["pixel_unshuffle"].target_size == (12, 12)
    assert by_name["pixel_unshuffle"].pretrain_size == (8, 8)
    model.load_state_dict(fxscale.upscale_state(small))


def test_patches_over_several_dimensions_at_once() -> None:
    def fold(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rows, columns = h // 2, w // 2
        t = x.reshape(n * c * rows, 2, columns, 2).transpose(1, 2)
        t = t.reshape(n, c, rows * columns, 4).transpose(1, 3).reshape(n * 4, rows * columns, c)
        t = mix(t).view(n, 4, rows * columns, c).transpose(1, 3)
        t = t.reshape(n * c * rows, columns, 2, 2).transpose(1, 2)
        return t.reshape(n, c, rows * 2, columns * 2)

    # 6 patches of 2 pixels: 6 does not divide 8, so 4 patches.
    small = fxscale.downscale(Around(fold), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(fold), torch.randn(2, 3, 8, 8))


def test_a_convolution_within_windows() -> None:
    def within(size: int) -> Body:
        def body(m: Any, x: Tensor) -> Tensor:
            c, h, w = x.shape[1:]
            t = windows(x, size).mT.reshape(-1, c, size, size)
            t = m.inner(t).flatten(2).mT
            return m.after(unwindow(t, size, h, w))

        return body

    def layers() -> dict[str, nn.Module]:
        return {
            "inner": nn.Conv2d(4, 4, 3, padding=1, groups=4),
            "after": nn.Conv2d(4, 2, 3, padding=1),
        }

    kernels = {"conv": 3, "inner": 3, "after": 3}
    small = fxscale.downscale(Around(within(6), **layers()), 8, target_size=12, kernels=kernels)
    assert_same_outputs(small, Around(within(4), **layers()), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("twice", [lambda x: torch.cat([x, -x]), lambda x: x.repeat(2, 1, 1, 1)])
def test_a_batch_that_was_put_together(twice: Callable[[Tensor], Tensor]) -> None:
    def body(size: int) -> Body:
        def attend(m: Any, x: Tensor) -> Tensor:
            n, c, h, w = twice(x).shape
            t = twice(x).view(n, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1)
            t = mix(t.reshape(n * (h // size) * (w // size), size * size, c))
            return t.reshape(n, h // size, w // size, size, size, c).mean((1, 2, 3, 4))

        return attend

    small = fxscale.downscale(Around(body(6)), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body(4)), torch.randn(5, 3, 8, 8))


def test_axes() -> None:
    network = annotated(Around(window_attention(4)))
    assert layout(network, "view") == "(2) (~3) (~4) (~3) (~4) (4)"
    assert layout(network, "view_1") == "(2 ~3 ~3) (~4 ~4) (4)"
    assert layout(network, "view_3") == "(2) (~12) (~12) (4)"
    kept = annotated(Around(by_hand_to_depth, after=nn.Conv2d(16, 3, 1)))
    assert layout(kept, "view_1") == "(2) (2 2 4) (~6) (~6)"


def test_an_image_that_does_not_divide() -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(48, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.pixel_unshuffle(x, 4))

    images = (torch.empty(2, 3, 64, 64),)
    with pytest.raises(
        UnsupportedModelError,
        match=r"viewed as 16 x 4; .* has 46 pixels, which do not divide with 4 kept.*"
        r"choose an input_size that divides: 40, 44, 48, 52",
    ):
        fxscale.downscale(Stem(), 46, example_inputs=images)
    small = fxscale.downscale(Stem(), example_inputs=images)
    assert small.plan.pretrain_size == (44, 44)  # 64 / 1.5 is 42.7
    assert small(torch.randn(2, 3, 44, 44)).shape == (2, 4, 11, 11)


def test_the_default_size_divides() -> None:
    small = fxscale.downscale(Around(window_attention(7)), target_size=56)
    assert small.plan.pretrain_size == (35, 35)  # 56 / 1.5 is 37.3: 5 windows of 7, or 8 of 5
