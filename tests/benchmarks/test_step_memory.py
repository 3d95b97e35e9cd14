from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import step_memory
from benchmarks.step_memory import StepMemory, table
from fxscale.training import SmallResNet


@pytest.mark.parametrize("interface", [None, 16])
def test_command_line(
    interface: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def create(name: str) -> SmallResNet:
        return SmallResNet(3, 5, widths=(16, 32), interface=interface)

    monkeypatch.setattr(step_memory, "create", create)

    step_memory.main(
        ["--models", "small", "--sizes", "64", "44", "--batch-sizes", "2", "4", "--device", "cpu",
         "--output", str(tmp_path)]
    )  # fmt: skip

    steps = json.loads((tmp_path / "step_memory.json").read_text())["steps"]
    assert [step["batch_size"] for step in steps] == [2, 4]
    for step in steps:
        assert step["pretrain"] < step["target"]
        assert step["pretrain_batch"] > step["batch_size"]
        assert (step["progressive"] is None) == (interface is not None)
    assert "| small | 64 / 44 | 2 |" in capsys.readouterr().out


def test_table_gives_shares() -> None:
    mebi = 2**20
    rows = table(
        [
            StepMemory("a", 224, 160, 16, 8 * mebi, 4 * mebi, 2 * mebi, 30, 60),
            StepMemory("b", 231, 147, 16, 8 * mebi, None, 2 * mebi, None, 60),
        ]
    ).splitlines()[2:]

    assert rows == [
        "| a | 224 / 160 | 16 | 8 | 0.50 | 0.25 | 16 / 30 / 60 |",
        "| b | 231 / 147 | 16 | 8 | - | 0.25 | 16 / - / 60 |",
    ]
