from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fxscale.schedules import At, LearningRules, Schedule
from fxscale.training.bar import Bar, ahead, as_time
from fxscale.training.observers import JsonLines, Plan, Several, StepReport, TensorBoard
from fxscale.training.progress import EpochResult, PhaseChange, Progress

SCHEDULE = Schedule(LearningRules.drops(3, 0.1), 2, At((1,)))
PLAN = Plan(SCHEDULE.outlook([]), 10, 8, [100, 250], [17, 24], 1)
REPORT = StepReport(1, 4, 4, 0, 17, 0.7, 0.1, 160.0)
RESULT = EpochResult(1, 0, 17, 0.1, 1e-4, False, 0.7, 0.6, 0.75, 0.5, 160.0, 2)
CHANGE = PhaseChange(1, 1, 24, 0.25, 0.5, 0.0, 0.75, 0.7, "ab")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_file_reads_like_that_of_one_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path)
    first.started(PLAN, Progress())
    for step in range(1, 6):
        first.step()
        first.report(replace(REPORT, step=step, steps=step))
    with path.open("a") as file:
        file.write('{"event": "step", "ste')  # the process died here

    second = JsonLines(path)
    second.started(PLAN, Progress(steps=3, step=3))
    second.step()
    second.report(replace(REPORT, step=4, steps=4))

    assert [line["event"] for line in lines(path)] == ["step"] * 3 + ["resumed", "step"]
    assert [line["steps"] for line in lines(path)] == [1, 2, 3, 3, 4]


def test_everything_is_told(tmp_path: Path) -> None:
    path, output = tmp_path / "metrics.jsonl", io.StringIO()
    observer = Several([JsonLines(path), Bar(Console(file=output, width=200))])
    observer.started(PLAN, Progress())
    observer.compiled(17, 12.5)
    observer.step()
    observer.report(REPORT)
    observer.unreadable(["a.png: OSError: cut off [x]"])
    observer.epoch(RESULT, SCHEDULE.outlook([0.75]))
    observer.change(CHANGE)
    observer.checkpoint(Path("last"))
    observer.closed()

    assert [x["event"] for x in lines(path)] == [
        "compiled",
        "step",
        "unreadable",
        "epoch",
        "transition",
        "checkpoint",
    ]
    assert (lines(path)[0]["size"], lines(path)[0]["seconds"]) == (17, 12.5)
    assert lines(path)[4]["seconds"] == 0.75
    text = output.getvalue()
    # One of three epochs takes 0.4 of the target's arithmetic.
    assert "epochs to train: 1 at 17 px (small kernels), 2 at 24 px; as much" in text
    assert "as much arithmetic as 2.4 at 24 px" in text
    assert "torch.compile for 17 px: 12.50 s" in text
    assert "unreadable: a.png: OSError: cut off [x]" in text
    assert "epoch   1 · 17 px" in text
    assert "accuracy 75.00 % · 0.5 s · 160 images/s · 2 images unreadable" in text
    assert "transition to 24 px after epoch 1: accuracy 75.00 % -> 70.00 %; 0.75 s" in text


def test_the_time_left_counts_each_phase_at_its_own_pace() -> None:
    bar = Bar(Console(file=io.StringIO()))
    bar.started(PLAN, Progress())
    for _ in range(4):
        bar.step()
    bar.report(REPORT)  # 160 images a second, 8 a step: 0.05 s
    # 6 steps of the first epoch, then 20 of a network with 2.5 times the arithmetic.
    assert bar.seconds_left() == pytest.approx(6 * 0.05 + 20 * 0.125)
    bar.epoch(RESULT, SCHEDULE.outlook([0.75]))
    assert bar.seconds_left() == pytest.approx(20 * 0.125)
    bar.report(replace(REPORT, phase=1, images_per_second=80.0))  # measured: 0.1 s
    assert bar.seconds_left() == pytest.approx(20 * 0.1)
    bar.closed()
    alone = Plan(Schedule(LearningRules.drops(3, 0.1), 1).outlook([]), 10, 8, [250], [24], 0)
    assert ahead(alone) == "3 at 24 px"
    assert as_time(3 * 3600 + 25 * 60 + 7.4) == "3:25:07"


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, loss in ((0, 0.7), (2, 0.5)):  # the second run is resumed after two steps
        observer = TensorBoard(tmp_path)
        observer.started(PLAN, Progress(steps=first))
        observer.compiled(17, 12.5)
        for _ in range(3):
            observer.step()
            observer.report(replace(REPORT, loss=loss))
        observer.epoch(RESULT, [])
        observer.change(CHANGE)
        observer.closed()

    found = EventAccumulator(str(tmp_path)).Reload()
    losses = [(e.step, round(e.value, 3)) for e in found.Scalars("train/loss")]
    assert losses == [(1, 0.7), (2, 0.7), (3, 0.5), (4, 0.5), (5, 0.5)]
    assert found.Scalars("transition/seconds")[-1].value == 0.75
    # The first run's transition, after step 3, is not that of the resumed one.
    compiled = [(e.step, e.value) for e in found.Scalars("compile/seconds")]
    assert compiled == [(0, 12.5), (2, 12.5), (5, 0.0)]


def test_progress_goes_through_json() -> None:
    progress = Progress([RESULT], [CHANGE], step=3, steps=13, loss=1 / 3, pending=0.1)
    assert Progress.from_dict(json.loads(json.dumps(progress.to_dict()))) == progress


def test_the_best_epoch_is_one_of_the_latest_network() -> None:
    results = [
        replace(RESULT, epoch=n + 1, phase=phase, accuracy=accuracy)
        for n, (phase, accuracy) in enumerate([(0, 0.9), (0, 0.5), (1, 0.6), (1, 0.7), (1, 0.7)])
    ]
    assert Progress(results[:2]).best == results[0]
    assert Progress(results).best == results[3]
    assert Progress().best is None
