"""The demo's table, with figures worked out by hand."""

from __future__ import annotations

import io

from rich.console import Console

from fxscale.training import Change, EpochRecord, Run
from fxscale.training.report import comparison_table


def run(name: str, times: list[float], phases: str, accuracies: list[float]) -> Run:
    records = tuple(
        EpochRecord(n + 1, {"p": "pre-train", "t": "target"}[p], 32, time, 0.1, 1.0, accuracy)
        for n, (time, p, accuracy) in enumerate(zip(times, phases, accuracies, strict=True))
    )
    change = Change(2, 0.5, 0.8, 0.6, 0.7) if "p" in phases else None
    return Run(name, 0, records, change)


def text(target: list[Run], scaled: list[Run]) -> dict[str, list[str]]:
    """Rows of the table: first cell -> the others."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison_table(target, scaled))
    cells = [
        [cell.strip() for cell in line.strip("│┃ ").split("│")]
        for line in console.export_text().splitlines()
        if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in cells}


TARGET = run("t", [4.0, 4.0, 4.0, 4.0], "tttt", [0.5, 0.75, 0.8, 0.9])
SCALED = run("s", [1.0, 1.0, 4.0, 4.0], "pptt", [0.6, 0.8, 0.85, 0.92])


def test_one_seed() -> None:
    rows = text([TARGET], [SCALED])

    assert rows["one epoch, pre-train network"] == ["", "1.0 s"]
    assert rows["speed-up of an epoch"] == ["", "4.00×"]
    assert rows["accuracy after epoch 2"] == ["75.0 %", "80.0 %"]
    assert rows["right after the transition"] == ["", "60.0 %"]
    assert rows["with BatchNorm re-estimated"] == ["", "70.0 %"]
    assert rows["after one more epoch"] == ["80.0 %", "85.0 %"]
    assert rows["at the end"] == ["90.0 %", "92.0 %"]
    assert rows["total training time"] == ["16.0 s", "10.5 s"]
    assert rows["time saved"] == ["", "34 %"]  # 5.5 of 16 s
    assert rows["time saved at median epoch times"] == ["", "34 %"]


def test_several_seeds_have_a_spread() -> None:
    other = run("t", [6.0, 6.0, 6.0, 6.0], "tttt", [0.5, 0.75, 0.8, 0.94])

    rows = text([TARGET, other], [SCALED, SCALED])

    assert rows["at the end"] == ["92.0 ± 2.8 %", "92.0 ± 0.0 %"]
    assert rows["total training time"] == ["20.0 ± 5.7 s", "10.5 ± 0.0 s"]
