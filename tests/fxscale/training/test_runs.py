from __future__ import annotations

import json

import pytest

from fxscale.training import Change, EpochRecord, Run
from fxscale.training.runs import of_changes, percent, seconds, spread


def example_run(*, seed: int = 0, change: Change | None = None, scale: float = 1.0) -> Run:
    """Three epochs of 1, 2 and 4 seconds, at 10, 20 and 30 %, the first a pre-train epoch."""
    records = tuple(
        EpochRecord(n + 1, "target" if n else "pre-train", 32, scale * 2**n, 0.1, 1.0, (n + 1) / 10)
        for n in range(3)
    )
    return Run("run", seed, records, change)


def test_elapsed_counts_the_change_where_it_falls() -> None:
    plain = example_run()
    changed = example_run(change=Change(1, 0.5, 0.1, 0.08, 0.09))

    assert plain.elapsed() == [1, 3, 7]
    assert changed.elapsed() == [1, 3.5, 7.5]
    assert (plain.seconds, changed.seconds) == (7, 7.5)


def test_figures_of_a_run() -> None:
    run = example_run()

    assert run.accuracy == pytest.approx(0.3)
    assert run.epoch_seconds("target") == 3  # the median of 2 and 4
    assert run.epoch_seconds("pre-train") == 1
    assert run.steady_seconds == 1 + 3 + 3
    assert example_run(change=Change(1, 0.5, 0.1, 0.08, 0.09)).steady_seconds == 7.5


@pytest.mark.parametrize("change", [None, Change(1, 0.5, 0.1, 0.08, 0.09)])
def test_round_trip_through_json(change: Change | None) -> None:
    run = example_run(change=change)

    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_means_and_spreads() -> None:
    assert spread([2.0], 1) == "2.0"
    assert spread([1.0, 3.0], 2) == "2.00 ± 1.41"  # sample deviation: the root of 2
    assert percent([0.5, 0.52]) == "51.0 ± 1.4 %"
    assert seconds([12.34]) == "12.3 s"


def test_changes_are_taken_where_there_are_any() -> None:
    runs = [example_run(), example_run(change=Change(1, 0.5, 0.1, 0.08, 0.09))]

    assert of_changes(runs, lambda change: change.after) == [0.08]
