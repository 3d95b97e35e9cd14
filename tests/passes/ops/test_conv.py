"""Convolutions of every kind, compiled and run beside the same layer built by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import (
    CONV,
    Around,
    assert_gradients_reach_every_parameter,
    assert_same_outputs,
    kernel_sizes,
    map_sizes,
    pad_nodes,
    sites_of,
)


class Two(nn.Module):
    """Two convolutions in a row and a mean over the map, in one to three dimensions."""

    def __init__(self, rank: int, k: int, p: tuple[int, int], **options: Any) -> None:
        super().__init__()
        conv = CONV[rank]
        self.a = conv(4, 8, k, padding=p[0], **options)
        self.b = conv(8, 8, k, padding=p[1], **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.a(x)))
        return x.flatten(2).mean(2)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"bias": False}], ids=str)
def test_pairs_of_kernels_need_no_pad(rank: int, options: dict[str, Any]) -> None:
    small = fxscale.downscale(Two(rank, 3, (1, 1), **options), 8, target_size=12)
    image = torch.randn(2, 4, *[8] * rank)
    assert_same_outputs(small, Two(rank, 2, (0, 1), **options), image)
    assert map_sizes(small, image) == {"a": (7,) * rank, "b": (8,) * rank}
    assert_gradients_reach_every_parameter(small.train(), image)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_padding_mode(rank: int, mode: str) -> None:
    small = fxscale.downscale(Two(rank, 3, (1, 1), padding_mode=mode), 8, target_size=12)
    assert_same_outputs(
        small, Two(rank, 2, (0, 1), padding_mode=mode), torch.randn(2, 4, *[8] * rank)
    )


class Residual(nn.Module):
    """One convolution beside the identity: an even kernel cannot keep the size on its own."""

    def __init__(self, mode: str = "zeros", *, keyword: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, padding_mode=mode)
        self.keyword = keyword

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(input=x) if self.keyword else self.conv(x)
        return out + x


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_a_lone_even_kernel_is_padded_in_its_own_mode(mode: str) -> None:
    small = fxscale.downscale(Residual(mode), 8, target_size=12)
    image = torch.randn(2, 3, 8, 8)
    weight, bias = small.get_parameter("conv.weight"), small.get_parameter("conv.bias")
    how = "constant" if mode == "zeros" else mode
    padded = [
        F.pad(image, (left, 1 - left, top, 1 - top), mode=how) for left in (0, 1) for top in (0, 1)
    ]
    expected = [F.conv2d(x, weight, bias) + image for x in padded]
    output = small(image)
    assert sum(torch.allclose(output, e, atol=1e-6) for e in expected) == 1
    assert len(small.plan.pad_operators) == len(pad_nodes(small)) == 1


def test_depthwise() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 4, 1),
    )
    small = fxscale.downscale(model, 8, target_size=12)
    assert kernel_sizes(small) == {"0": (2, 2), "1": (2, 2), "2": (1, 1)}
    by_hand = nn.Sequential(
        nn.Conv2d(3, 6, 2), nn.Conv2d(6, 6, 2, padding=1, groups=6), nn.Conv2d(6, 4, 1)
    )
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))
    assert small.get_parameter("1.weight").shape == (6, 1, 2, 2)


def test_dilation_stays_and_the_padding_follows() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=2, dilation=2) for _ in range(2)))
    small = fxscale.downscale(model, 16, target_size=24)
    by_hand = nn.Sequential(*(nn.Conv2d(3, 3, 2, padding=1, dilation=2) for _ in range(2)))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 16, 16))
    assert map_sizes(small, torch.zeros(1, 3, 16, 16)) == {"0": (16, 16), "1": (16, 16)}


@pytest.mark.parametrize("kernel", [5, 7, 11])
def test_padding_same(kernel: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, kernel, padding="same"), nn.Conv2d(4, 4, 1))
    small = fxscale.downscale(model, 16, target_size=24)
    k = {5: 3, 7: 5, 11: 7}[kernel]
    assert kernel_sizes(small)["0"] == (k, k)
    assert small(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 16, 16)
    by_hand = nn.Sequential(nn.Conv2d(3, 4, k, padding="same"), nn.Conv2d(4, 4, 1))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 16, 16))


def test_padding_same_of_an_even_kernel() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding="same")

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x)
            return out + x

    small = fxscale.downscale(Same(), 8, target_size=12)
    image = torch.randn(2, 3, 8, 8)
    weight, bias = small.get_parameter("conv.weight"), small.get_parameter("conv.bias")
    (call,) = small.plan.conv("conv").calls
    (top, bottom), (left, right) = call.pretrain_padding
    expected = F.conv2d(F.pad(image, (left, right, top, bottom)), weight, bias) + image
    torch.testing.assert_close(small(image), expected)


def test_padding_valid() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 5, padding="valid"))
    small = fxscale.downscale(model, 14, target_size=24)
    assert small(torch.zeros(1, 3, 14, 14)).shape == (1, 4, 12, 12)
    assert_same_outputs(small, nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(1, 3, 14, 14))


def test_axes_are_chosen_on_their_own() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, (7, 1), padding=(3, 0))
    )
    small = fxscale.downscale(model, 16, target_size=24)
    by_hand = nn.Sequential(
        nn.Conv2d(3, 4, (1, 5), padding=(0, 2)), nn.Conv2d(4, 4, (5, 1), padding=(2, 0))
    )
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 16, 16))


class Functional(nn.Module):
    def __init__(self, k: int, p: tuple[int, int], *, keyword: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.w = nn.Parameter(torch.randn(6, 3, k, k))
        self.v = nn.Parameter(torch.randn(6, 6, k, k))
        self.p = p
        self.keyword = keyword

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.keyword:
            x = F.conv2d(input=x, weight=self.w, padding=self.p[0])
        else:
            x = F.conv2d(x, self.w, None, 1, self.p[0])
        return F.conv2d(x, self.v, padding=self.p[1])


@pytest.mark.parametrize("keyword", [False, True])
def test_functional_convolutions(keyword: bool) -> None:
    small = fxscale.downscale(Functional(3, (1, 1), keyword=keyword), 8, target_size=12)
    assert_same_outputs(small, Functional(2, (0, 1)), torch.randn(2, 3, 8, 8))
    assert [conv.weight for conv in small.plan.convs] == ["first.weight", "w", "v"]


def test_a_pad_operator_before_a_call_by_keyword() -> None:
    small = fxscale.downscale(Residual(keyword=True), 8, target_size=12)
    assert small(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    assert len(pad_nodes(small)) == 1


def test_a_convolution_over_the_whole_map_follows_the_map() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Conv2d(4, 5, 6))
    small = fxscale.downscale(model, 8, target_size=12)
    assert kernel_sizes(small) == {"0": (2, 2), "1": (4, 4)}
    assert small(torch.zeros(1, 3, 8, 8)).shape == (1, 5, 1, 1)


def test_a_module_called_twice_keeps_one_kernel() -> None:
    class Twice(nn.Module):
        def __init__(self, k: int, p: int) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.conv = nn.Conv2d(4, 4, k, padding=p)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(self.conv(self.stem(x)))
            return out

    small = fxscale.downscale(Twice(3, 1), 8, target_size=12)
    assert kernel_sizes(small) == {"stem": (1, 1), "conv": (2, 2)}
    assert small(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 8, 8)
    twice = small.plan.conv("conv")
    assert len(twice.calls) == 2
    # By hand: the paddings of both calls that the plan lists, applied in front of a bare kernel.
    image = torch.randn(2, 3, 8, 8)
    x = F.conv2d(image, small.get_parameter("stem.weight"), small.get_parameter("stem.bias"))
    for call in twice.calls:
        (top, bottom), (left, right) = call.pretrain_padding
        x = F.pad(x, (left, right, top, bottom))
        x = F.conv2d(x, small.get_parameter("conv.weight"), small.get_parameter("conv.bias"))
    torch.testing.assert_close(small(image), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolutions_with_a_stride_keep_their_kernel(rank: int) -> None:
    transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[rank]
    model = nn.Sequential(CONV[rank](3, 4, 2, stride=2), transposed(4, 3, 4, stride=2, padding=1))
    small = fxscale.downscale(model, 8, target_size=12)
    assert kernel_sizes(small)["1"] == (4,) * rank
    assert_same_outputs(small, copy.deepcopy(model), torch.randn(2, 3, *[8] * rank))


def test_what_the_site_knows() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, (5, 3), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=3)
    )
    (convolution,) = sites_of(model, (16, 20)).convolutions
    site = convolution.first
    assert (site.in_channels, site.out_channels, site.groups) == (3, 6, 3)
    assert (site.kernel_size, site.stride, site.dilation) == ((5, 3), (2, 1), (1, 2))
    assert site.padding == ((2, 2), (1, 1))
    assert site.operator == "conv2d"
    out = model(torch.zeros(1, 3, 16, 20))
    assert tuple(axis.target for dim in site.outputs for axis in dim) == tuple(out.shape[2:])


def test_output_size_at_the_call_is_refused() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 4, 3, 2, 1)
            self.up = nn.ConvTranspose2d(4, 3, 3, 2, 1)

        def forward(self, x: Tensor) -> Any:
            return self.up(self.down(x), output_size=(12, 12))

    with pytest.raises(UnsupportedModelError, match="output_size is given at the call"):
        fxscale.downscale(Sized(), 8, target_size=12)


def test_channels_that_hold_samples_are_counted_once() -> None:
    class PerSample(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            weight = (self.conv.weight * x.mean((1, 2, 3)).view(n, 1, 1, 1, 1)).flatten(0, 1)
            y = F.conv2d(x.reshape(1, n * c, h, w), weight, groups=n)
            return y.view(n, 4, y.shape[2], y.shape[3]).mean((2, 3))

    (conv,) = fxscale.downscale(PerSample(), 8, target_size=12).plan.convs
    assert (conv.in_channels, conv.out_channels, conv.groups) == (3, 4, 1)
    assert conv.pretrain_kernel_size == (2, 2)


def test_a_call_without_a_batch_is_refused() -> None:
    class Unbatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Any:
            return self.conv(x[0])

    with pytest.raises(UnsupportedModelError, match="its input has 3 dimensions, 4 with a batch"):
        fxscale.downscale(Unbatched(), 8, target_size=12)


def test_a_filter_that_is_a_constant_of_the_code_is_left_alone() -> None:
    """As a Sobel or box filter written down in forward."""

    def box(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, torch.ones(4, 1, 3, 3) / 9, padding=1, groups=4)

    small = fxscale.downscale(Around(box), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(box), torch.randn(2, 3, 8, 8))
    assert [conv.pretrain_kernel_size for conv in small.plan.convs] == [(3, 3), (3, 3)]
    assert list(fxscale.upscale_state(small)) == ["conv.weight", "conv.bias"]


class EqualConv2d(nn.Module):
    """A layer of one's own, as in StyleGAN: its weight is scaled when it is used."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def test_a_network_without_a_layer_of_torchs() -> None:
    target = nn.Sequential(EqualConv2d(3, 4, 5), nn.LeakyReLU(0.2), EqualConv2d(4, 4, 5))
    images = (torch.randn(2, 3, 12, 12),)
    small = fxscale.downscale(target, 8, example_inputs=images)
    assert [conv.pretrain_kernel_size for conv in small.plan.convs] == [(3, 3), (3, 3)]
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 4, 8, 8)
    target.load_state_dict(fxscale.upscale_state(small))
