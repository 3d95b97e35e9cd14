"""What operators do and move, held against what is counted by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import step_floor
from benchmarks._step import Settings
from benchmarks.step_floor import Rates, floor, kinds_table, measured_rates, step_work, table
from fxscale.training import SmallResNet


class Plain(nn.Module):
    """Images of 8 pixels, maps of 8 and 4; a fully connected interface for 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 6, 2, stride=2)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.pool(torch.relu(self.conv(x)))
        return self.head(torch.flatten(x, 1))


IMAGES, STEM, CONV, POOLED = 2 * 3 * 64, 2 * 4 * 64, 2 * 6 * 16, 2 * 6 * 4
STEM_WEIGHTS, CONV_WEIGHTS, HEAD_WEIGHTS = 4 * 3 * 9, 6 * 4 * 4, 5 * 24


def test_by_hand() -> None:
    flops: dict[str, float] = defaultdict(float)
    numbers: dict[str, float] = defaultdict(float)
    for work in step_work(Plain(), 8, batch_size=2):
        flops[work.kind] += work.flops
        numbers[work.kind] += work.numbers

    stem, conv = 2 * (2 * 64) * STEM_WEIGHTS, 2 * (2 * 16) * CONV_WEIGHTS
    stem_moves, conv_moves = IMAGES + STEM + STEM_WEIGHTS, STEM + CONV + CONV_WEIGHTS
    head, head_moves = 2 * 2 * HEAD_WEIGHTS, 2 * 24 + 2 * 5 + HEAD_WEIGHTS
    assert flops == {
        "convolution, forward": stem + conv,
        "convolution, backward": stem + 2 * conv,  # no gradient of the images
        "BatchNorm": 0,
        "pooling": 0,
        "matrix product": 3 * head,
    }
    assert numbers == {
        "convolution, forward": stem_moves + conv_moves,
        "convolution, backward": stem_moves + 2 * conv_moves,
        "BatchNorm": (3 + 5) * STEM,
        "pooling": 2 * (CONV + POOLED),
        "matrix product": 3 * head_moves,
    }


@pytest.mark.parametrize("limit", ["arithmetic", "memory"])
def test_the_slower_of_two_limits(limit: str) -> None:
    many = 1e30
    rates = Rates(1.0, many) if limit == "arithmetic" else Rates(many, 1.0)

    seconds = floor(Plain(), 8, 2, torch.bfloat16, rates)

    by_hand = 2 * (2 * 64) * STEM_WEIGHTS + 2 * (2 * 16) * CONV_WEIGHTS
    moved = 2 * (IMAGES + 2 * STEM + CONV + STEM_WEIGHTS + CONV_WEIGHTS)
    expected = by_hand if limit == "arithmetic" else moved
    assert seconds["convolution, forward"] == pytest.approx(expected)
    parameters = sum(p.numel() for p in Plain().parameters())
    assert seconds["optimizer"] == pytest.approx(5 * 4 * parameters / rates.bytes)


def test_where_memory_limits_kernels_do_not_count() -> None:
    """Of two networks with equal maps, the one with larger kernels takes as long."""
    large, small = nn.Conv2d(3, 64, 5, padding=2), nn.Conv2d(3, 64, 3, padding=1)
    bound, free = Rates(1e12, 1.0), Rates(1.0, 1e12)

    def seconds(conv: nn.Module, rates: Rates) -> float:
        network = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return floor(network, 32, 4, torch.float32, rates)["convolution, forward"]

    assert seconds(large, bound) == pytest.approx(seconds(small, bound), rel=0.05)
    assert seconds(large, free) == pytest.approx(25 / 9 * seconds(small, free))


def test_rates_are_positive() -> None:
    settings = Settings(torch.device("cpu"), torch.float32, repeats=2)

    rates = measured_rates(settings, width=32, mebibytes=1)

    assert min(rates.flops, rates.bytes) > 0


def test_tables() -> None:
    entry = {
        "mac_ratio": 4.0,
        "seconds": {
            "target": {"BatchNorm": 0.002, "pooling": 0.004},
            "pretrain": {"BatchNorm": 0.002},
        },
    }

    assert table({"a": entry}).splitlines()[2] == (
        "| a | 6.0 | - | 2.0 | 3.00× | - | 4.00× | 75 % |"
    )
    assert kinds_table(entry).splitlines()[2:] == [
        "| pooling | 4.00 | 0.00 |",
        "| BatchNorm | 2.00 | 2.00 |",
    ]


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_floor, "create", lambda name: SmallResNet(3, 5, widths=(16, 32)))
    step_floor.main(
        ["--models", "torchvision/resnet34", "--device", "cpu", "--batch-size", "2",
         "--width", "64", "--mebibytes", "1", "--output", str(tmp_path)]
    )  # fmt: skip

    floors = json.loads((tmp_path / "step_floor.json").read_text())["floors"]
    seconds = floors["torchvision/resnet34"]["seconds"]
    total = {key: sum(kinds.values()) for key, kinds in seconds.items()}
    assert total["target"] > total["progressive"] > total["pretrain"] > 0
    assert "## torchvision/resnet34" in (tmp_path / "step_floor.md").read_text()


def test_given_rates_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_floor, "create", lambda name: SmallResNet(3, 5, widths=(16, 32)))
    monkeypatch.delattr(step_floor, "measured_rates")

    step_floor.main(
        ["--models", "torchvision/resnet34", "--device", "cpu", "--batch-size", "2",
         "--rates", "2", "3000", "--output", str(tmp_path)]
    )  # fmt: skip

    figures = json.loads((tmp_path / "step_floor.json").read_text())
    assert figures["rates"] == {"flops": 2e12, "bytes": 3e12}
    assert figures["settings"]["matrix product"] == "2 TFLOP/s"
    assert figures["settings"]["copy"] == "3000 GB/s, read and written"
    assert figures["settings"]["device"] == "none: the rates were given"
