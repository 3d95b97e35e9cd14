"""The benchmark of schedules of several lengths in miniature, and its table by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import schedule_lengths
from benchmarks.schedule_lengths import Schedule
from fxscale.training import EpochRecord, Run
from tests.benchmarks.tiny_images import write_images

MINIATURE = (
    "--seeds", "2", "--batch-size", "4", "--classes", "2", "--target-size", "32",
    "--pretrain-size", "20", "--widths", "8", "16", "--blocks", "1", "--threads", "1",
)  # fmt: skip


def test_each_schedule_has_its_own_epochs(tmp_path: Path) -> None:
    output = tmp_path / "output"
    paths = ("--data", str(write_images(tmp_path)), "--output", str(output))
    growing = ("5:3,4/1,2,26,3", "5:3,4/0,2,26,3", "5:3,4/1,26,3", "5:3,4/1,1,26,3")
    schedules = ("--schedules", "2:1", "1:1", *growing)
    checkpoints = ("--checkpoints", str(tmp_path / "kept"))
    arguments = [*paths, *checkpoints, *MINIATURE, *schedules, "--norms"]
    schedule_lengths.main(arguments)
    figures = json.loads((output / "schedule_lengths.json").read_text())
    made = [
        [(record["phase"], round(record["learning_rate"], 6)) for record in entry["run"]["records"]]
        for entry in figures["runs"]
        if entry["run"]["seed"] == 0
    ]
    rates = [0.02, 0.02, 0.02, 0.002, 0.0002]
    assert made == [
        [("target", 0.02), ("target", 0.002)],
        [("target", 0.02)],
        list(zip(["pre-train", "small images", "26 px", "target", "target"], rates, strict=True)),
        list(zip([*["small images"] * 2, "26 px", "target", "target"], rates, strict=True)),
        list(zip(["pre-train", *["pre-train, 26 px"] * 2, *["target"] * 2], rates, strict=True)),
        list(zip(["pre-train", *["26 px"] * 2, *["target"] * 2], rates, strict=True)),
        made[2],  # norms kept
        made[4],
        made[5],
    ]
    plain, norms_kept = (
        [r["train_loss"] for r in entry["run"]["records"]]
        for entry in figures["runs"]
        if "resized at epoch 3" in entry["schedule"] and entry["run"]["seed"] == 0
    )
    assert norms_kept[0] == plain[0]
    assert norms_kept[3:] != plain[3:]
    kept = {path: path.read_text() for path in output.rglob("*.jsonl")}
    assert sorted(path.parent.name for path in kept) == ["1-1", "2-1", "5-3,4", "5-3,4"]
    schedule_lengths.main(arguments)  # nothing is trained again
    assert {path: path.read_text() for path in output.rglob("*.jsonl")} == kept


@pytest.mark.parametrize(
    "text",
    ["14", "14:a", "14:11/2,8,46", "14:11/2,8,46,14", "14:11/0,0,46,9", "9:8/4,46,4", "9:8/4,46,9"],
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(SystemExit):
        schedule_lengths.main(["--data", "images", "--schedules", text])


def test_all_are_compared_with_the_first() -> None:
    def runs(phases: list[str], *accuracies: float) -> list[Run]:
        return [
            Run(
                "",
                seed,
                tuple(EpochRecord(n, p, 32, 9.0, 0.1, 0.0, a) for n, p in enumerate(phases)),
            )
            for seed, a in enumerate(accuracies)
        ]

    table = schedule_lengths.report(
        {
            Schedule.parse("2:1").name: runs(["target"] * 2, 0.5, 0.6),
            "cheaper": runs(["small images"] * 2 + ["target"], 0.6, 0.8),
            "worse": runs(["target"], 0.4, 0.5),
        },
        {"target": 4.0, "small images": 1.0},
        10,
        {},
    )
    assert "| 2 epochs, drops after 1: target alone | 55.0 ± 7.1 % |  |  |" in table
    assert "| cheaper | 70.0 ± 14.1 % | +15.0 ± 7.1 | 25.0 % |" in table
    assert "| worse | 45.0 ± 7.1 % | -10.0 ± 0.0 | 50.0 % |" in table
