"""The pre-train input size that the paper's rule suggests."""

from __future__ import annotations

import pytest
from torch import nn

import fxscale
from fxscale.errors import SizeError
from fxscale.passes.sizes import choose_input_size, first_factor
from tests.passes.networks import annotated, sites_of


def suggested(model: nn.Module, size: tuple[int, ...]) -> tuple[int, ...]:
    return choose_input_size(annotated(model, size), sites_of(model, size), size)


def strided(k: int, depth: int) -> nn.Sequential:
    """A stem and pools with an accumulated stride of 2 ** depth."""
    pools = [nn.MaxPool2d(2) for _ in range(depth)]
    return nn.Sequential(nn.Conv2d(3, 4, k, padding=k // 2), *pools)


def test_the_exact_ratio_where_no_multiple_fits() -> None:
    # The paper's OverFeat: 231 is no multiple of the stride, 231 * 7 / 11 = 147.
    overfeat = nn.Sequential(nn.Conv2d(3, 4, 11, stride=4), nn.MaxPool2d(2))
    assert suggested(overfeat, (231, 231)) == (147, 147)


def test_a_multiple_of_the_accumulated_stride() -> None:
    # The paper's ResNet: 224 * 5 / 7 = 160 = 5 * 32.
    assert suggested(strided(7, 5), (224, 224)) == (160, 160)
    # 96 / (3 / 2) = 64 = 4 * 16.
    assert suggested(strided(3, 4), (96, 96)) == (64, 64)


def test_axes_on_their_own() -> None:
    assert suggested(strided(7, 3), (112, 224)) == (80, 160)


def test_a_multiple_that_is_far_away_is_not_taken() -> None:
    # 32 / 1.5 = 21.33, multiples of 16 are 16 and 32.
    assert suggested(strided(3, 4), (32, 32)) == (21, 21)


def test_the_labels_of_a_map_have_the_size_of_the_image() -> None:
    up = nn.Upsample(scale_factor=16)
    # 64 / 1.5 = 42.67: 32 and 48 are multiples of 16.
    assert suggested(nn.Sequential(*strided(3, 4), up), (64, 64)) == (48, 48)
    assert suggested(strided(3, 4), (64, 64)) == (43, 43)


def test_the_first_kernel_that_shrinks_counts() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 4, 7, padding=3))
    assert first_factor(sites_of(model, (32, 32))) == pytest.approx(7 / 5)


def test_no_kernel_shrinks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(SizeError, match="the paper's rule suggests no input size; pass input_size"):
        fxscale.downscale(model, target_size=12)
    assert fxscale.downscale(model, 8, target_size=12).plan.pretrain_size == (8, 8)


def test_downscale_takes_the_suggestion() -> None:
    small = fxscale.downscale(strided(7, 3), target_size=(112, 224))
    assert small.plan.pretrain_size == (80, 160)
