from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from fxscale.training import Change, EpochRecord, Run, plots
from fxscale.training.plots import plot_comparison

PNG = b"\x89PNG\r\n"


def run(seconds: list[float], phases: list[str], change: Change | None = None) -> Run:
    records = tuple(
        EpochRecord(n + 1, phase, 32, s, 0.1, 1.0, 0.2 + 0.1 * n)
        for n, (s, phase) in enumerate(zip(seconds, phases, strict=True))
    )
    return Run("run", 0, records, change)


TARGET = run([4.0, 4.0, 4.0], ["target"] * 3)
SCALED = run([1.0, 4.0, 4.0], ["pre-train", "target", "target"], Change(1, 1.0, 0.2, 0.1, 0.15))


@pytest.mark.parametrize("seeds", [1, 2])
def test_picture_is_written(tmp_path: Path, seeds: int) -> None:
    path = tmp_path / "demo.png"

    plot_comparison([TARGET] * seeds, [SCALED] * seeds, path, title="Title")

    assert path.read_bytes().startswith(PNG)
    assert [file.name for file in tmp_path.iterdir()] == ["demo.png"]


def test_curves_hold_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[float], list[float]]] = []
    original = Axes.plot

    def recording(self: Axes, x: list[float], y: list[float], **options: object) -> object:
        drawn.append((list(x), [round(value, 6) for value in y]))
        return original(self, x, y, **options)

    monkeypatch.setattr(plots.Axes, "plot", recording)
    plot_comparison([TARGET], [SCALED], tmp_path / "demo.png", title="Title")

    assert ([1, 2, 3], [20, 30, 40]) in drawn  # the target against epochs
    assert ([4, 8, 12], [20, 30, 40]) in drawn  # and against seconds
    assert ([1], [20]) in drawn  # the pre-train network, either way
    assert ([6, 10], [30, 40]) in drawn  # the target after a transition of 1 s
    assert ([1, 1, 6], [20, 15, 30]) in drawn  # the transition between them
