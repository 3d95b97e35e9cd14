"""A smoke test on a network of two layers: the figures themselves are no concern here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import step_time
from benchmarks.step_time import Settings, StepTimes, accepts, measure, table, training_step
from fxscale.training import SmallResNet

CPU = Settings(torch.device("cpu"), batch_size=2, repeats=1)


def test_measures_all_three_networks() -> None:
    network = SmallResNet(3, 5, widths=(8, 16))

    times = measure("small", network, 64, 44, CPU)

    assert times.target > 0
    assert times.progressive is not None
    assert times.pretrain > 0
    assert 3 < times.mac_ratio < 6


def test_an_interface_has_no_progressive_resizing() -> None:
    network = SmallResNet(3, 5, widths=(8, 16), interface=16)

    assert accepts(network, 64, CPU)
    assert not accepts(network, 44, CPU)
    assert measure("small", network, 64, 44, CPU).progressive is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_trains(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = network[0].weight.detach().clone()

    training_step(network, 8, Settings(torch.device("cpu"), dtype, batch_size=2))()

    assert not torch.equal(network[0].weight, before)
    assert network[0].weight.dtype == torch.float32


def test_table_gives_ratios() -> None:
    text = table(
        [
            StepTimes("a", 224, 160, 0.4, 0.2, 0.1, 4.36),
            StepTimes("b", 231, 147, 0.3, None, 0.1, 4.85),
        ]
    )

    assert "| a | 224 / 160 | 400.0 | 200.0 | 100.0 | 4.00× | 2.00× | 4.36× |" in text
    assert "| b | 231 / 147 | 300.0 | - | 100.0 | 3.00× | - | 4.85× |" in text


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_time, "create", lambda name: SmallResNet(3, 5, widths=(8, 16)))

    step_time.main(
        ["--models", "small", "--sizes", "64", "44", "--batch-size", "2", "--repeats", "1",
         "--device", "cpu", "--output", str(tmp_path), "--dtype", "bf16"]
    )  # fmt: skip

    content = json.loads((tmp_path / "step_time.json").read_text())
    assert content["settings"]["dtype"] == "bf16"
    assert [step["model"] for step in content["steps"]] == ["small"]
    assert "| small | 64 / 44 |" in capsys.readouterr().out
