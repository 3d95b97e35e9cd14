"""The report, with figures worked out by hand."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes

from fxscale.training.compare import Comparison, variants
from fxscale.training.comparison_plots import plot_time
from fxscale.training.comparison_report import write_report
from fxscale.training.comparison_rows import cells, duration, finding, rows, saving
from fxscale.training.history import History
from fxscale.training.progress import EpochResult, PhaseChange
from tests.fxscale.training.small_runs import settings


def history(seed: int, phases: str, seconds: list[float], accuracies: list[float]) -> History:
    epochs = tuple(
        EpochResult(n + 1, int(p), 24, 0.1, 0.0, False, 1.0, 1.0, accuracy, time, 10.0, 0)
        for n, (p, time, accuracy) in enumerate(zip(phases, seconds, accuracies, strict=True))
    )
    changes = (PhaseChange(1, 1, 24, 0.5, 0.25, 0.25, 0.4, 0.3, ""),) if "1" in phases else ()
    return History(seed, epochs, changes)


def comparison(shift: float = 0.0) -> Comparison:
    """Two seeds; the resized run saves a third, and is `shift` off the target's accuracy."""
    chosen = variants(settings(epochs=3, milestones=(2,)), ["1"])

    def runs(phases: str, seconds: list[float], accuracies: list[float]) -> tuple[History, ...]:
        higher = [a + 0.02 for a in accuracies]
        return history(0, phases, seconds, accuracies), history(1, phases, seconds, higher)

    return Comparison(
        chosen,
        (
            runs("000", [4.0, 4.0, 4.0], [0.5, 0.8, 0.7]),
            runs("000", [1.0, 1.0, 1.0], [0.4, 0.5, 0.6]),
            runs("011", [2.0, 4.0, 4.0], [0.4, 0.6, 0.7]),
            # Its best epoch is that of the target network, whatever the pre-train network reached.
            runs("011", [1.0, 3.0, 3.0], [0.99 - 0.02, 0.75, 0.8 + shift]),
        ),
        "squares",
    )


def test_the_table() -> None:
    table = [cells(row) for row in rows(comparison())]
    assert table[0] == (
        *("target network alone", "81.00 ± 1.41 % (2)", "", "71.00 ± 1.41 %", "3"),
        *("12.0 ± 0.0 s", "", ""),
    )
    assert table[3] == (
        *("pre-train network, resized after epoch 1", "81.00 ± 1.41 % (3)", "+0.00 ± 0.00"),
        *("81.00 ± 1.41 %", "3", "8.0 ± 0.0 s", "33.3 ± 0.0 %", "33.3 ± 0.0 %"),
    )
    assert table[1][2] == "-20.00 ± 0.00"
    assert duration([600.0]) == "10.00 min"
    assert duration([7200.0, 14400.0, 18000.0]) == "3.67 ± 1.53 h"


def test_a_shorter_target_is_one_of_those_compared(tmp_path: Path) -> None:
    whole = comparison()
    chosen = variants(settings(epochs=5), ["1"], target_lengths=[(3, (2,)), (2, (1,))])
    shorter = (history(0, "00", [4.0, 4.0], [0.4, 0.6]), history(1, "00", [4.0, 4.0], [0.4, 0.6]))
    mixed = Comparison(chosen, (whole.target, shorter, *whole.histories[1:]), "squares")
    first, second, *_ = [cells(row) for row in rows(mixed)]
    assert first == ("target network alone for 3 epochs", *cells(rows(whole)[0])[1:])
    assert second == (
        *("target network alone for 2 epochs", "60.00 ± 0.00 % (2)", "-21.00 ± 1.41"),
        *("60.00 ± 0.00 %", "2", "8.0 ± 0.0 s", "33.3 ± 0.0 %", "33.3 ± 0.0 %"),
    )
    assert finding(mixed).startswith(
        "The target network alone for 3 epochs reaches 81.00 ± 1.41 %. The target network alone "
        "for 2 epochs reaches 60.00 ± 0.00 %, less than that, in 33.3 ± 0.0 % less time. The "
    )
    assert "for 2 epochs" in write_report(mixed, tmp_path).read_text(encoding="utf-8")


def test_elapsed_counts_transitions_where_they_fall() -> None:
    resized = comparison().histories[3][0]
    assert resized.elapsed() == [1.0, 5.0, 8.0]
    assert History.from_dict(json.loads(json.dumps(resized.to_dict()))) == resized
    slow = history(0, "011", [1.0, 3.0, 9.0], [0.1, 0.2, 0.3])
    assert slow.steady_seconds == 1.0 + 6.0 + 6.0 + 1.0
    compiled = replace(resized, compile_seconds=2.0)
    assert compiled.elapsed() == [3.0, 7.0, 10.0]
    assert compiled.steady_seconds == resized.steady_seconds + 2.0
    older = {key: v for key, v in compiled.to_dict().items() if key != "compile_seconds"}
    assert History.from_dict(older) == resized


@pytest.mark.parametrize(("shift", "kept"), [(0.0, True), (-0.014, True), (-0.015, False)])
def test_the_finding_asks_for_the_targets_accuracy(shift: float, kept: bool) -> None:
    """Within the target's standard deviation over the seeds, 1.41 points."""
    words = finding(comparison(shift)).split(". ")
    (told,) = [w for w in words if w.startswith("The pre-train network, resized after epoch 1")]
    assert "in 33.3 ± 0.0 % less time" in told
    assert ("less than the target alone" not in told) == kept


def test_the_report_needs_no_other_file(tmp_path: Path) -> None:
    path = write_report(comparison(), tmp_path)
    names = ["accuracy_epochs.png", "accuracy_time.png", "best_time.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*names, "comparison.html", "comparison.json"]
    )
    page = path.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in sources] == [
        (tmp_path / name).read_bytes() for name in names
    ]
    assert "<td>81.00 ± 1.41 % (3)</td>" in page
    content = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    resized = content["variants"][3]
    assert resized["best"] == pytest.approx([0.8, 0.82])
    assert resized["seconds"] == [8.0, 8.0]
    assert len(resized["runs"][1]["epochs"]) == 3


def test_curves_hold_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[float], list[float]]] = []
    original = Axes.plot

    def recording(
        self: Axes, x: list[float], y: list[float], *more: str, **options: object
    ) -> object:
        drawn.append((list(x), [round(value, 6) for value in y]))
        return original(self, x, y, *more, **options)

    monkeypatch.setattr(Axes, "plot", recording)
    plot_time(comparison(), tmp_path / "time.png")
    assert ([4, 8, 12], [51, 81, 71]) in drawn  # the target alone, mean of two seeds
    assert ([5, 8], [76, 81]) in drawn  # after the transition
    assert ([1], [98]) in drawn  # before it
    assert ([1, 2, 5], [98, 30, 76]) in drawn  # the transition, of 1 s


def test_a_longer_run_does_not_save_a_negative_time() -> None:
    row = rows(comparison())[3]
    assert saving(row, 1) == "33.3 ± 0.0 % less time"
    assert saving(replace(row, saved=(-0.1, -0.05)), 0) == "8 ± 4 % more time"


@pytest.mark.parametrize("gpu", [None, "NVIDIA H100"])
def test_the_device_is_the_one_that_trained(
    gpu: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with a GPU, which may not have been used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100")

    page = write_report(replace(comparison(), gpu=gpu), tmp_path).read_text(encoding="utf-8")

    assert ("NVIDIA H100, " in page) == (gpu is not None)
    machine = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["machine"]
    assert machine["gpu"] == gpu


def test_remarks_are_made(tmp_path: Path) -> None:
    remark = "left out: no <small> images"
    path = write_report(replace(comparison(), remarks=(remark,)), tmp_path)
    assert "Left out: no &lt;small&gt; images." in path.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "comparison.json").read_text())["remarks"] == [remark]
