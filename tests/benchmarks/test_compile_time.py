from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import compile_time
from benchmarks.compile_time import CompileTimes, bytes_of, measure, peak_memory, table
from fxscale.training import SmallResNet

MEBIBYTE = 2**20


def test_measures_total_and_passes() -> None:
    times = measure("small", SmallResNet(3, 5, widths=(16, 32)), 44, 64, repeats=1)

    assert {"trace", "verify"} <= times.passes.keys()
    assert 0 < sum(times.passes.values()) <= times.seconds * 1.01


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(4, 4, bias=False)

    assert bytes_of(nn.Sequential(layer, layer)) == 4 * 4 * 4


def test_peak_memory_sees_what_is_freed_again() -> None:
    peak = peak_memory(lambda: torch.ones(64 * MEBIBYTE // 4).sum())

    if peak is None:
        pytest.skip("this system does not tell")
    assert 60 * MEBIBYTE < peak < 80 * MEBIBYTE


def test_table() -> None:
    result = CompileTimes("a", 0.5, {"trace": 0.3, "verify": 0.1}, 2 * MEBIBYTE, 3 * MEBIBYTE)

    assert "| a | 0.500 | 0.300 | 0.100 | 3 | 2 |" in table([result])


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_time, "create", lambda name: SmallResNet(3, 5, widths=(16, 32)))

    compile_time.main(
        ["--models", "small", "--sizes", "64", "44", "--repeats", "1", "--output", str(tmp_path)]
    )

    content = json.loads((tmp_path / "compile_time.json").read_text())
    assert [entry["model"] for entry in content["models"]] == ["small"]
    assert "| small |" in capsys.readouterr().out
