"""`valid_sizes` against the plans of `downscale`, size by size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import SizeError, UnsupportedModelError
from fxscale.valid_sizes import LARGEST, SMALLEST, default_sizes
from tests.passes.networks import Around


class Ladder(nn.Module):
    """Halves the image three times, with a residual sum on the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.down = nn.Conv2d(4, 4, 3, 2, 1)
        self.last = nn.Conv2d(4, 4, 3, 2, 1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.down(self.stem(x)))
        result: Tensor = self.head((y + self.body(y)).mean((2, 3)))
        return result


def test_every_size_is_one_that_downscale_takes() -> None:
    model = Ladder()
    found = fxscale.valid_sizes(model, target_size=64)
    assert sorted(valid.size[0] for valid in found) == list(range(32, 58))
    for valid in found:
        plan = fxscale.downscale(model, valid.size, target_size=64).plan
        assert valid.ratio == valid.size[0] / 64
        assert valid.pad_operators == len(plan.pad_operators)
        assert valid.max_drift == pytest.approx(plan.max_drift, abs=1e-6)
        assert valid.padded == len(plan.pad_operators) / 5
    costs = [round(v.cost, 3) for v in found]
    assert costs == sorted(costs)


def test_sizes_that_divide_come_first() -> None:
    found = fxscale.valid_sizes(Ladder(), target_size=64)
    whole = {valid.size[0] for valid in found if valid.deviation == 0}
    assert whole == {32, 40, 48, 56}  # what 8, the accumulated stride, divides
    assert found[0].size[0] in whole
    assert {v.size[0] for v in found if v.multiple_of_8} == {32, 40, 48, 56}
    assert {v.size[0] for v in found if v.multiple_of_32} == {32}


def test_deviation_by_hand() -> None:
    """One strided convolution and an end: 24 > 12 in the target, 15 > 7 or 8 at a ratio of 5/8."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2, 2), nn.Flatten(), nn.Linear(144, 2))
    valid = {v.size[0]: v for v in fxscale.valid_sizes(model, target_size=24)}
    assert valid[16].deviation == 0
    assert valid[15].deviation == pytest.approx(0.5 / 7.5)


def test_the_shape_is_the_targets() -> None:
    found = fxscale.valid_sizes(Ladder(), target_size=(64, 32))
    assert {valid.size for valid in found if valid.size[0] % 2 == 0} == {
        (n, n // 2) for n in range(32, 58, 2)
    }


def test_resnet34_comes_back_to_the_papers_size() -> None:
    models = pytest.importorskip("torchvision.models")
    found = fxscale.valid_sizes(models.resnet34(weights=None))
    assert found[0].size == (160, 160)
    assert min(v.size[0] for v in found) >= SMALLEST * 224
    assert max(v.size[0] for v in found) <= LARGEST * 224


def test_only_sizes_that_are_large_enough() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 2, 1), nn.BatchNorm2d(1))
    found = fxscale.valid_sizes(model, target_size=8)
    assert sorted(valid.size[0] for valid in found) == [6, 7]
    with pytest.raises(SizeError, match="the smallest input_size that works is 6"):
        fxscale.downscale(model, 4, target_size=8)


@pytest.mark.parametrize("target", [1, (1, 1)])
def test_a_target_without_smaller_sizes(target: Any) -> None:
    with pytest.raises(SizeError, match=r"no size lies between 0.5 and 0.9 times"):
        fxscale.valid_sizes(nn.Conv2d(1, 1, 1), target_size=target)


def test_models_that_cannot_be_compiled_are_refused() -> None:
    model = Around(lambda m, x: torch.fft.fft2(x))
    with pytest.raises(UnsupportedModelError, match="fft_fft2 is not known"):
        fxscale.valid_sizes(model, target_size=12)


def test_sizes_are_tried_as_they_are_handed_on() -> None:
    offered: list[tuple[int, ...]] = []

    def track(sizes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
        offered.extend(sizes)
        yield from sizes[:3]

    found = fxscale.valid_sizes(Ladder(), target_size=64, track=track)
    assert offered == [(n, n) for n in range(32, 58)]
    assert {valid.size for valid in found} == set(offered[:3])


@pytest.mark.parametrize("target_size", [64, 7, (64, 48), None])
def test_default_sizes_are_those_of_downscale(target_size: int | tuple[int, int] | None) -> None:
    """Of 7 pixels the paper's rule keeps 5, too few to normalise the last map, and 6 are taken."""
    model = nn.Sequential(Ladder().stem, Ladder().down, nn.BatchNorm2d(4))
    plan = fxscale.downscale(model, target_size=target_size).plan
    assert default_sizes(model, target_size=target_size) == (plan.target_size, plan.pretrain_size)
    assert target_size != 7 or plan.pretrain_size == (6, 6)
