"""Sizes that are too small are found before anything is built, with the smallest one that works."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import SizeError
from tests.passes.networks import Around


class Normalised(nn.Module):
    """Two strided convolutions and a normalisation of what is left."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        return F.instance_norm(y) if self.norm is None else self.norm(y)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "kernel": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 7, 2), nn.Conv2d(4, 2, 3)),
        24,
        r"in module '0'.*: the feature map has 4 pixels left .*, too few for a kernel of 5",
    ),
    "pool": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AvgPool2d(4)),
        24,
        r"in module '1'.*: the feature map has \d pixels left .*, too few for a kernel of 4",
    ),
    "batch norm": (lambda: Normalised(nn.BatchNorm2d(4)), 8, "one pixel is left to normalise"),
    "group norm": (lambda: Normalised(nn.GroupNorm(4, 4)), 8, "one pixel is left to normalise"),
    "instance norm": (lambda: Normalised(nn.InstanceNorm2d(4)), 8, "one pixel is left"),
    "instance norm function": (Normalised, 8, r"one pixel is left to normalise over \(4 values"),
}


def runs(small: nn.Module, size: int) -> bool:
    try:
        small.train()(torch.randn(1, 3, size, size))
    except (RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("name", NETWORKS)
def test_the_smallest_size_that_works_is_named(name: str) -> None:
    factory, target, message = NETWORKS[name]
    model = factory()
    with pytest.raises(SizeError, match=message) as caught:
        fxscale.downscale(model, 4, target_size=target)
    found = re.search(r"; the smallest input_size that works is (\d+)$", str(caught.value))
    assert found
    smallest = int(found[1])
    for size in range(4, smallest):
        with pytest.raises(SizeError):
            fxscale.downscale(model, size, target_size=target)
    small = fxscale.downscale(model, smallest, target_size=target)
    assert runs(small, smallest)  # a batch of one image, in train mode


def test_the_smallest_size_that_works_is_the_default_where_the_paper_s_is_too_small() -> None:
    model = Normalised(nn.BatchNorm2d(4))  # 7 / 1.5 is 5, which leaves 2 pixels of 5, and then one
    with pytest.raises(SizeError, match="the smallest input_size that works is 6"):
        fxscale.downscale(model, 5, target_size=7)
    small = fxscale.downscale(model, target_size=7)
    assert small.plan.pretrain_size == (6, 6)
    assert runs(small, 6)


def test_maps_that_are_normalised_keep_two_pixels_where_they_can() -> None:
    """Of 4 pixels 2 and then one would be left, as in half the target; a padding leaves 2."""
    model = nn.Sequential(Normalised(nn.BatchNorm2d(4)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    small = fxscale.downscale(model, 4, target_size=8)
    assert small.plan.feature_maps[-1].pretrain_size == (2, 2)
    assert runs(small, 4)


@pytest.mark.parametrize(("name", "target", "size"), [("resnet34", 64, 46), ("resnet18", 96, 54)])
def test_residual_networks_on_small_images(name: str, target: int, size: int) -> None:
    """Their last maps have 2 or 3 pixels, and the pre-train network's 2."""
    models = pytest.importorskip("torchvision.models")
    small = fxscale.downscale(models.get_model(name, num_classes=5), size, target_size=target)
    last = [m for m in small.plan.feature_maps if m.module.startswith("layer4")]
    assert {m.pretrain_size for m in last} == {(2, 2)}
    assert runs(small, size)


def test_groups_of_several_channels_have_a_spread() -> None:
    small = fxscale.downscale(Normalised(nn.GroupNorm(2, 4)), 4, target_size=8)
    assert small.plan.feature_maps[-1].pretrain_size == (1, 1)
    assert runs(small, 4)


def test_a_target_that_normalises_one_pixel_itself() -> None:
    """As the image pooling of DeepLab does: no batch of one image trains the target either."""
    model = Around(lambda m, x: m.norm(F.adaptive_avg_pool2d(x, 1)), norm=nn.BatchNorm2d(4))
    small = fxscale.downscale(model, 8, target_size=12)
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 4, 1, 1)


def test_sizes_keep_the_shape_that_was_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 7, 2), nn.Conv2d(4, 2, 5))
    with pytest.raises(SizeError, match=r"that works is \((\d+), (\d+)\)$") as caught:
        fxscale.downscale(model, (4, 8), target_size=(24, 48))
    height, width = map(int, re.findall(r"\d+", str(caught.value))[-2:])
    assert width == 2 * height
    fxscale.downscale(model, (height, width), target_size=(24, 48))


def test_an_adaptive_pool_never_lengthens() -> None:
    """11 of 12 pixels in the target; half of it would be 6 of 5."""
    model = Around(lambda m, x: F.adaptive_avg_pool2d(F.max_pool2d(x, 2, 1), 10))
    for size in range(4, 12):
        maps = {m.node: m for m in fxscale.downscale(model, size, target_size=12).plan.feature_maps}
        before, after = maps["max_pool2d"], maps["adaptive_avg_pool2d"]
        assert after.pretrain_size <= before.pretrain_size, size


def test_an_adaptive_pool_that_would_lengthen_is_refused() -> None:
    """8 pixels became 3 where paths part, so that they are 3 everywhere; here one is left."""

    def forward(m: nn.Module, x: Tensor) -> list[Tensor]:
        first = F.adaptive_avg_pool2d(x, 8)
        shorter = F.avg_pool2d(F.avg_pool2d(x, 2, 1), 3, 1)
        second = F.adaptive_avg_pool2d(shorter, 8)
        return [F.avg_pool2d(first, 2), F.avg_pool2d(first, 3), second]

    model = Around(forward)
    with pytest.raises(SizeError, match=r"which the layer would have to lengthen.*; the smallest"):
        fxscale.downscale(model, 4, target_size=12, kernels={"conv": 3})


@pytest.mark.parametrize("padding", [0, 1])
def test_average_pools_over_volumes_want_their_window_to_fit(padding: int) -> None:
    """torch refuses avg_pool3d, unlike its siblings, on a padded map shorter than its window."""
    model = nn.Sequential(nn.Conv3d(1, 2, 1, 2), nn.AvgPool3d(3, 1, padding))
    with pytest.raises(SizeError, match=r"2 pixels left .* kernel of 3; the smallest .* is 4"):
        fxscale.downscale(model, 3, target_size=8)
    small = fxscale.downscale(model, 4, target_size=8)
    assert small(torch.randn(1, 1, 4, 4, 4)).ndim == 5
