"""A comparison in figures: the table of best accuracy (epoch) and total time, and its finding.

The paper's Tables 2 to 4, with mean and sample standard deviation over the seeds. Differences from
the target alone are taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from fxscale.training.compare import Comparison, Variant
from fxscale.training.history import History
from fxscale.training.runs import percent, signed, spread


@dataclass(frozen=True)
class Row:
    """One variant. Accuracies are from 0 to 1, times in seconds, one entry per seed.

    **Attributes:**

    - `compared`: whether it is compared with the target alone, and not that itself.
    - `best`, `best_epochs`: highest accuracy of the last network, and the epoch of it.
    - `gained`: `best` less that of the target alone.
    - `final`: accuracy after the last epoch; `epochs`: how many there were.
    - `seconds`: total training time; `saved`: share of the target's that was not needed.
    - `steady_saved`: the same had every epoch taken its phase's median time.
    """

    variant: Variant
    compared: bool
    best: tuple[float, ...]
    best_epochs: tuple[int, ...]
    gained: tuple[float, ...]
    final: tuple[float, ...]
    epochs: tuple[int, ...]
    seconds: tuple[float, ...]
    saved: tuple[float, ...]
    steady_saved: tuple[float, ...]


def rows(comparison: Comparison) -> list[Row]:
    """One per variant, in the order of the comparison."""
    pairs = zip(comparison.variants, comparison.histories, strict=True)
    return [
        _row(variant, own, comparison.target, compared=number > 0)
        for number, (variant, own) in enumerate(pairs)
    ]


def _row(
    variant: Variant, own: Sequence[History], target: Sequence[History], *, compared: bool
) -> Row:
    pairs = list(zip(own, target, strict=True))
    return Row(
        variant=variant,
        compared=compared,
        best=tuple(history.best.accuracy for history in own),
        best_epochs=tuple(history.best.epoch for history in own),
        gained=tuple(mine.best.accuracy - full.best.accuracy for mine, full in pairs),
        final=tuple(history.final for history in own),
        epochs=tuple(len(history.epochs) for history in own),
        seconds=tuple(history.seconds for history in own),
        saved=tuple(1 - mine.seconds / full.seconds for mine, full in pairs),
        steady_saved=tuple(1 - mine.steady_seconds / full.steady_seconds for mine, full in pairs),
    )


HEADINGS = (
    "",
    "best accuracy (epoch)",
    "points over the target",
    "at the end",
    "epochs",
    "total time",
    "time saved",
    "at median epoch times",
)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, under `HEADINGS`."""
    best = f"{percent(row.best, 2)} ({_span(row.best_epochs)})"
    end, epochs, time = percent(row.final, 2), _span(row.epochs), duration(row.seconds)
    if not row.compared:
        return (row.variant.name, best, "", end, epochs, time, "", "")
    saved = percent(row.saved, 1), percent(row.steady_saved, 1)
    gained = signed([100 * share for share in row.gained], 2)
    return (row.variant.name, best, gained, end, epochs, time, *saved)


def saving(row: Row, digits: int) -> str:
    """Against the target alone: `"31.0 ± 0.4 % less time"`, or `"3.2 ± 0.4 % more time"`."""
    if mean(row.saved) >= 0:
        return f"{percent(row.saved, digits)} less time"
    return f"{percent([-share for share in row.saved], digits)} more time"


def duration(seconds: Sequence[float]) -> str:
    """In seconds, minutes or hours, as their mean needs: `"12.3 ± 0.2 min"`."""
    unit, size = unit_of(seconds)
    return f"{spread([value / size for value in seconds], 1 if size == 1 else 2)} {unit}"


def unit_of(seconds: Sequence[float]) -> tuple[str, float]:
    """A unit for times like these, and how many seconds it has."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if mean(seconds) >= 3 * size:
            return unit, size
    return "s", 1.0


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def finding(comparison: Comparison) -> str:
    """In words: the fastest transition that keeps the target's accuracy, or else the most accurate.

    Of the pre-train network, of progressive resizing, and of the target alone with other epochs. A
    variant keeps the accuracy where the mean of its best accuracies is not below the target's by
    more than the sample standard deviation of the target's over the seeds; with one seed, not below
    at all.
    """
    table = rows(comparison)
    target = table[0]
    margin = stdev(target.best) if len(target.best) > 1 else 0.0
    told = [f"The {target.variant.name} reaches {percent(target.best, 2)}"]
    for kind, words, reference in (
        ("target", "The target network alone {}", "that"),
        ("resized", "The pre-train network, resized {},", "the target alone"),
        ("progressive", "Progressive resizing {}", "the target alone"),
    ):
        of_kind = [row for row in table[1:] if row.variant.kind == kind]
        if not of_kind:
            continue
        kept = [row for row in of_kind if mean(row.best) >= mean(target.best) - margin]
        row = max(kept, key=lambda r: mean(r.saved)) if kept else max(of_kind, key=_mean_best)
        fate = "" if kept else f", less than {reference},"
        told.append(
            f"{words.format(row.variant.when)} reaches {percent(row.best, 2)}{fate} in "
            f"{saving(row, 1)}"
        )
    return ". ".join(told) + "."


def _mean_best(row: Row) -> float:
    return mean(row.best)
