"""A smoke test on a network of two layers: the figures themselves are no concern here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import step_time
from benchmarks._loop import Loops
from benchmarks._step import Settings
from benchmarks._step_time_report import StepTimes, equal_memory_table, table
from benchmarks.step_time import measure
from fxscale.errors import FxscaleError
from fxscale.training import SmallResNet
from fxscale.training.pictures import open_source
from tests.benchmarks.tiny_images import write_images

Run = Callable[..., tuple[dict[str, Any], str]]
CPU = Settings(torch.device("cpu"), batch_size=2, repeats=1)


def test_measures_all_three_networks() -> None:
    network = SmallResNet(3, 5, widths=(16, 32))

    times = measure("small", network, 64, 44, CPU)

    assert list(times.seconds) == ["target", "progressive", "pretrain"]
    assert min(times.seconds.values()) > 0
    assert min(times.equal_memory_seconds.values()) > 0
    assert 3 < times.mac_ratio < 6
    assert times.memory["target"] > times.memory["progressive"] >= times.memory["pretrain"]
    assert 2 == times.batches["target"] < times.batches["progressive"] <= times.batches["pretrain"]


def test_an_interface_has_no_progressive_resizing() -> None:
    network = SmallResNet(3, 5, widths=(16, 32), interface=16)

    times = measure("small", network, 64, 44, CPU)

    for figures in (times.seconds, times.memory, times.batches, times.equal_memory_seconds):
        assert list(figures) == ["target", "pretrain"]


def test_a_step_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "step_memory", lambda *_: float("inf"))

    with pytest.raises(FxscaleError, match="small: a step of 2 images does not fit"):
        measure("small", SmallResNet(3, 5, widths=(16, 32)), 64, 44, CPU)


def times(with_progressive: bool) -> StepTimes:
    def only(**figures: float) -> dict[str, float]:
        return {k: v for k, v in figures.items() if with_progressive or k != "progressive"}

    return StepTimes(
        "a",
        224,
        160,
        5.0,
        only(target=0.4, progressive=0.2, pretrain=0.1),
        only(target=8 * 2**20, progressive=4 * 2**20, pretrain=3 * 2**20),
        {k: int(v) for k, v in only(target=16, progressive=30, pretrain=40).items()},
        only(target=0.4, progressive=0.4, pretrain=0.2),
    )


def test_tables_give_ratios() -> None:
    rows = table([times(True), times(False)]).splitlines()[2:]
    assert rows == [
        "| a | 224 / 160 | 400.0 | 200.0 | 100.0 | 4.00× | 2.00× | 5.00× | 80 % | 0.50 | 0.38 |",
        "| a | 224 / 160 | 400.0 | - | 100.0 | 4.00× | - | 5.00× | 80 % | - | 0.38 |",
    ]
    rows = equal_memory_table([times(True), times(False)]).splitlines()[2:]
    assert rows == [
        "| a | 8 | 16 / 30 / 40 | 40.0 / 75.0 / 200.0 | 5.00× | 2.67× |",
        "| a | 8 | 16 / - / 40 | 40.0 / - / 200.0 | 5.00× | - |",
    ]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line on a small network: what it writes, and what it prints."""
    monkeypatch.setattr(step_time, "create", lambda name: SmallResNet(3, 5, widths=(16, 32)))

    def main(*more: str) -> tuple[dict[str, Any], str]:
        step_time.main(
            ["--models", "small", "--sizes", "64", "44", "--batch-size", "2", "--repeats", "1",
             "--device", "cpu", "--output", str(tmp_path), *more]
        )  # fmt: skip
        return json.loads((tmp_path / "step_time.json").read_text()), capsys.readouterr().out

    return main


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_command_line(dtype: str, run: Run) -> None:
    content, printed = run("--dtype", dtype)

    assert content["settings"]["dtype"] == dtype
    assert [step["model"] for step in content["steps"]] == ["small"]
    assert "# One training step\n" in printed
    assert "| small | 64 / 44 |" in printed
    assert "Memory is counted" in printed


@pytest.mark.parametrize(("memory", "measured"), [("step", 3), ("none", 0)])
def test_memory_may_be_left_out(memory: str, measured: int, run: Run) -> None:
    content, printed = run("--memory", memory)

    assert len(content["steps"][0]["memory"]) == measured
    assert content["steps"][0]["batches"] == content["steps"][0]["equal_memory_seconds"] == {}
    assert ("Memory is counted" in printed) == bool(measured)
    assert "At equal memory" not in printed


def test_loops_over_files(tmp_path: Path, run: Run) -> None:
    content, printed = run("--loop", "--data", str(write_images(tmp_path)), "--loop-steps", "1")

    assert content["settings"]["images"] == "images, 16 to train on"
    assert list(content["steps"][0]["seconds"]) == ["target", "progressive", "pretrain"]
    assert "# One training step of the whole loop" in printed


def test_loops_without_loading(run: Run) -> None:
    content, _ = run("--loop", "--data", "one-batch", "--loop-steps", "2")

    assert content["settings"]["images"] == "one batch"
    assert min(content["steps"][0]["seconds"].values()) > 0


def test_a_loop_needs_as_many_images_as_it_has_steps(tmp_path: Path) -> None:
    loops = Loops(open_source(str(write_images(tmp_path))), 9, 0, CPU)

    with pytest.raises(FxscaleError, match="16 images to train on are fewer than 9 batches of 2"):
        measure("small", SmallResNet(3, 5, widths=(16, 32)), 64, 44, CPU, loops)
