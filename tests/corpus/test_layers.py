"""Convolutions and baked-in sizes of every kind, each in a network with nothing else in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from tests.corpus.checks import assert_is_the_target_at_its_own_size, assert_learns_and_leads_back
from tests.passes.networks import Around

LARGE, SMALL = 24, 16
Body = Callable[[Any, Tensor], Any]


class BlurPool(nn.Module):
    """A fixed filter, kept as a buffer, over every channel on its own."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filter", (row[:, None] * row).repeat(channels, 1, 1, 1))
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.pad(x), self.filter, stride=2, groups=x.shape[1])


class Deformable(nn.Module):
    """Offsets from a convolution of its own, then `torchvision.ops.deform_conv2d`."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(4, 18, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3) / 6)

    def forward(self, x: Tensor) -> Tensor:
        from torchvision.ops import deform_conv2d

        result: Tensor = deform_conv2d(x, self.offset(x), self.weight, padding=1)
        return result


def shared(m: Any, x: Tensor) -> list[Tensor]:
    half = F.max_pool2d(x, 2)
    return [m.head(x), m.head(half), m.head(F.max_pool2d(half, 2))]


def coordinates(m: Any, x: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([ys / (height - 1), xs / (width - 1)]).to(x)
    return m.next(torch.cat([x, grid.unsqueeze(0).repeat(batch, 1, 1, 1)], 1))


def bilinear(m: Any, x: Tensor) -> Tensor:
    """Bilinear pooling: the mean over all pixels of the products of channels, square root, norm."""
    flat = x.reshape(x.shape[0], 4, LARGE * LARGE)
    y = torch.bmm(flat, flat.transpose(1, 2)) / (LARGE * LARGE)
    y = y.view(x.shape[0], 4 * 4)
    return m.fc(F.normalize(torch.sign(y) * torch.sqrt(y.abs() + 1e-5)))


def flattened_norm(m: Any, x: Tensor) -> Tensor:
    return m.fc(m.norm(F.adaptive_avg_pool2d(x, 6).flatten(1)))


def resized(**arguments: Any) -> Body:
    return lambda m, x: m.next(F.interpolate(x, **arguments))


def after(layer: nn.Module, body: Body = lambda m, x: m.next(x)) -> Callable[[], nn.Module]:
    return lambda: Around(body, next=layer)


def conv(channels: int = 4, kernel_size: int = 3, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, 4, kernel_size, **arguments)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "transposed 4, 2": after(nn.ConvTranspose2d(4, 3, 4, 2, 1)),
    "transposed 2, 2": after(nn.ConvTranspose2d(4, 3, 2, 2)),
    "transposed with output padding": after(nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1)),
    "transposed, stride 1": after(nn.ConvTranspose2d(4, 3, 3, padding=1)),
    "transposed, grouped, dilated": after(nn.ConvTranspose2d(4, 4, 3, 2, 1, groups=2, dilation=2)),
    "31x31": after(nn.Conv2d(4, 4, 31, padding=15, groups=4)),
    "51x5": after(nn.Conv2d(4, 4, (51, 5), padding=(25, 2), groups=4)),
    "patchify": lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.GELU(), nn.Conv2d(4, 4, 3, 1, 1)),
    "non-square": after(conv(kernel_size=(1, 7), padding=(0, 3))),
    "depthwise, multiplied": after(nn.Conv2d(4, 8, 5, padding=2, groups=4)),
    "grouped, dilated": after(nn.Conv2d(4, 8, 3, padding=3, dilation=3, groups=2)),
    "blur pool": lambda: Around(lambda m, x: m.next(m.blur(x)), blur=BlurPool(), next=conv()),
    "shared over resolutions": lambda: Around(shared, head=conv(padding=1)),
    "functional": lambda: Around(lambda m, x: F.conv2d(x, m.next.weight, padding=1), next=conv()),
    "scale factor": after(conv(), resized(scale_factor=2, mode="bilinear")),
    "scale factor per axis": after(conv(), resized(scale_factor=(2.0, 1.5))),
    "size": after(conv(), resized(size=12)),
    "size per axis": after(conv(), resized(size=(36, 48), mode="bicubic", align_corners=True)),
    "size of another map": after(
        conv(), lambda m, x: x[:, :, 2:] + F.interpolate(m.next(x), size=x[:, :, 2:].shape[-2:])
    ),
    "size by arithmetic": after(
        conv(), lambda m, x: m.next(F.interpolate(x, size=(x.shape[2] * 2, x.shape[3] * 2)))
    ),
    "size as a list": after(
        conv(), lambda m, x: m.next(F.interpolate(x, size=[x.size(2) // 2, x.size(3) // 2]))
    ),
    "upsample module": lambda: nn.Sequential(conv(3), nn.Upsample(size=(44, 44)), conv()),
    "upsampling back": after(
        conv(stride=2, padding=1),
        lambda m, x: x + F.interpolate(m.next(x), x.shape[2:], None, "bilinear", False),
    ),
    "coordinates": lambda: Around(coordinates, next=conv(6)),
    "bilinear pooling": lambda: Around(bilinear, fc=nn.Linear(16, 3)),
    "LayerNorm over the map": after(nn.LayerNorm([4, LARGE, LARGE])),
    "LayerNorm channels last": after(
        nn.LayerNorm([LARGE, LARGE, 4]), lambda m, x: m.next(x.permute(0, 2, 3, 1))
    ),
    "BatchNorm1d on flattened": lambda: Around(
        flattened_norm, norm=nn.BatchNorm1d(4 * 36), fc=nn.Linear(4 * 36, 3)
    ),
    "zero padding module": lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv(3, stride=2)),
    "ceil-mode pools": after(conv(), lambda m, x: F.max_pool2d(m.next(x), 3, 2, ceil_mode=True)),
    "crop": after(conv(), lambda m, x: m.next(x)[:, :, 1:-1, 1:-1] + x[:, :, 2:-2, 2:-2]),
    "view with numbers": lambda: Around(
        lambda m, x: m.fc(F.max_pool2d(x, 4).view(-1, 144)), fc=nn.Linear(144, 3)
    ),
    "reshape with a product": lambda: Around(
        lambda m, x: m.fc(F.max_pool2d(x, 4).reshape(x.shape[0], 4 * 6 * 6)), fc=nn.Linear(144, 3)
    ),
    "AvgPool2d as global": after(nn.AvgPool2d(LARGE), lambda m, x: m.next(x).flatten(1)),
    "adaptive above 1": lambda: Around(
        lambda m, x: m.fc(F.adaptive_max_pool2d(x, (7, 5)).flatten(1)), fc=nn.Linear(140, 3)
    ),
}


def image(size: int) -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, size, size),)


@pytest.mark.filterwarnings("ignore:The default behavior for interpolate")
@pytest.mark.parametrize("name", NETWORKS)
def test_layers(name: str) -> None:
    assert_learns_and_leads_back(NETWORKS[name](), image(LARGE), image(SMALL))
    assert_is_the_target_at_its_own_size(NETWORKS[name](), image(LARGE))


def test_fixed_filters_are_left_alone() -> None:
    network = NETWORKS["blur pool"]()
    small = fxscale.downscale(network, SMALL, target_size=LARGE)
    assert torch.equal(small.get_buffer("blur.filter"), network.get_buffer("blur.filter"))
    assert small.get_parameter("next.weight").shape[2:] == (2, 2)


def test_a_shared_head_has_one_kernel_and_serves_every_level() -> None:
    small = fxscale.downscale(NETWORKS["shared over resolutions"](), SMALL, target_size=LARGE)
    (head,) = [conv for conv in small.plan.convs if conv.name == "head"]
    assert len(head.calls) == 3
    assert head.pretrain_kernel_size == (2, 2)
    for level, wanted in zip(small(*image(SMALL)), (16, 8, 4), strict=True):
        assert all(abs(length - wanted) <= 1 for length in level.shape[2:])


@pytest.mark.parametrize("size", [31, 51])
def test_large_kernels_shrink_by_the_mean_of_table_1(size: int) -> None:
    plan = fxscale.downscale(
        nn.Conv2d(3, 3, size, padding=size // 2, groups=3), 80, target_size=112
    ).plan
    mean = (3 / 2 + 5 / 3 + 7 / 5 + 11 / 7) / 4
    assert plan.convs[0].pretrain_kernel_size == (round(size / mean),) * 2


def test_bilinear_pooling_keeps_its_amplitude() -> None:
    """A sum over fewer pixels, divided by the target's number of them, is scaled up."""
    network = Around(lambda m, x: bilinear(m, 1 + 0 * x), fc=nn.Identity())
    small = fxscale.downscale(network, SMALL, target_size=LARGE)
    torch.testing.assert_close(small(*image(SMALL)), network(*image(LARGE)))


EINOPS: dict[str, tuple[str, Callable[[Any], Body]]] = {
    "flatten": ("144", lambda e: lambda m, x: m.fc(e.rearrange(pooled(x), "b c h w -> b (c h w)"))),
    "channels last": (
        "144",
        lambda e: lambda m, x: m.fc(e.rearrange(pooled(x), "b c h w -> b (h w c)")),
    ),
    "tokens": ("4", lambda e: lambda m, x: m.fc(e.rearrange(x, "b c h w -> b (h w) c"))),
    "mean": ("4", lambda e: lambda m, x: m.fc(e.reduce(x, "b c h w -> b c", "mean"))),
    "layer": ("144", lambda e: lambda m, x: m.fc(m.layer(pooled(x)))),
}


def pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 4)


@pytest.mark.parametrize("name", EINOPS)
def test_einops(name: str) -> None:
    einops = pytest.importorskip("einops")
    torch_layers = pytest.importorskip("einops.layers.torch")
    features, body = EINOPS[name]

    def build() -> nn.Module:
        layer = torch_layers.Rearrange("b c h w -> b (c h w)")
        return Around(body(einops), fc=nn.Linear(int(features), 3), layer=layer)

    assert_learns_and_leads_back(build(), image(LARGE), image(SMALL))
    assert_is_the_target_at_its_own_size(build(), image(LARGE))


def deformable_module() -> nn.Module:
    ops = pytest.importorskip("torchvision.ops")
    return Around(
        lambda m, x: m.next(x, m.offset(x)),
        offset=nn.Conv2d(4, 18, 3, padding=1),
        next=ops.DeformConv2d(4, 4, 3, padding=1),
    )


DEFORMABLE: dict[str, Callable[[], nn.Module]] = {
    "function": lambda: Around(lambda m, x: m.next(x), next=Deformable()),
    "module": deformable_module,
}


@pytest.mark.parametrize("name", DEFORMABLE)
def test_deformable_convolutions_keep_their_kernel(name: str) -> None:
    """Their taps and the channels of the offsets belong together, so both stay."""
    pytest.importorskip("torchvision")
    assert_learns_and_leads_back(DEFORMABLE[name](), image(LARGE), image(SMALL))
    assert_is_the_target_at_its_own_size(DEFORMABLE[name](), image(LARGE))
    plan = fxscale.downscale(DEFORMABLE[name](), SMALL, target_size=LARGE).plan
    assert plan.conv("conv").pretrain_kernel_size == (2, 2)
