"""A comparison in pictures: accuracy against epochs and against time, as Figures 4 to 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fxscale.files import written_whole
from fxscale.training.compare import Comparison, Variant
from fxscale.training.comparison_rows import Row, rows, saving, unit_of
from fxscale.training.history import History
from fxscale.training.plots import LABEL_SIZE, PRETRAIN_COLOUR, TARGET_COLOUR, draw_band, style
from fxscale.training.runs import percent

_SHADES = {
    "target": ("bone", 0.36, 0.65),
    "progressive": ("Greens", 0.9, 0.45),
    "resized": ("plasma", 0.03, 0.5),
}
"""Colour map of a kind, and where in it the colours of its first and last variant lie."""
_MOST_DOTS = 30
"""Of more epochs, single ones are not marked."""
_THIN: Mapping[str, Any] = {"linewidth": 1.2, "alpha": 0.7, "zorder": 1.8}  # below the others
_RING: Mapping[str, Any] = {
    "marker": "o",
    "markersize": 7,
    "markerfacecolor": "white",
    "markeredgewidth": 1.8,
    "linestyle": "none",
}
_MARKS = [
    Line2D([], [], color="#222222", label="on small images, before the transition", **_THIN),
    Line2D([], [], color="#222222", label="right after the transition", **_RING),
]
"""What the legend says of every colour."""

_MOST_HIDDEN = 0.15
"""Share of the epochs whose low accuracies may fall out of the picture, in favour of the rest."""


def plot_epochs(comparison: Comparison, path: Path) -> None:
    """Writes a PNG: accuracy in per cent of the test images against epochs, means over seeds."""
    figure, axes = _figure("Accuracy against epochs", comparison)
    colours = _colours(comparison.variants)
    for row, runs in zip(rows(comparison), comparison.histories, strict=True):
        places = [[float(epoch.epoch) for epoch in run.epochs] for run in runs]
        _draw(axes, _Curves(runs, places, 0.0), colours[row.variant.key], _label(row))
    axes.set_xlabel("epoch", fontsize=LABEL_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, axes, comparison, path)


def plot_time(comparison: Comparison, path: Path) -> None:
    """Writes a PNG: accuracy in per cent of the test images against training time."""
    figure, axes = _figure("Accuracy against training time", comparison)
    colours = _colours(comparison.variants)
    unit, size = unit_of([history.seconds for history in comparison.target])
    for row, runs in zip(rows(comparison), comparison.histories, strict=True):
        places = [[time / size for time in run.elapsed()] for run in runs]
        saved = f", {saving(row, 0)}" if row.compared else ""
        colour = colours[row.variant.key]
        _draw(axes, _Curves(runs, places, 1 / size), colour, _label(row) + saved)
        end = mean(place[-1] for place in places)
        accuracy = 100 * mean(run.final for run in runs)
        axes.plot([end], [accuracy], "o", color=colour, markersize=9)
    axes.set_xlabel(f"training time ({unit})", fontsize=LABEL_SIZE)
    axes.set_xlim(left=0)
    _finish(figure, axes, comparison, path)


def plot_trade(comparison: Comparison, path: Path) -> None:
    """Writes a PNG: best accuracy against total time, one point per seed and their mean."""
    figure, axes = _figure("Best accuracy against total time", comparison)
    colours = _colours(comparison.variants)
    unit, size = unit_of([history.seconds for history in comparison.target])
    for row in rows(comparison):
        colour = colours[row.variant.key]
        times = [seconds / size for seconds in row.seconds]
        accuracies = [100 * accuracy for accuracy in row.best]
        centre = mean(times), mean(accuracies)
        for point in zip(times, accuracies, strict=True):
            ends = zip(centre, point, strict=True)
            axes.plot(*ends, "o-", color=colour, alpha=0.35, markersize=6, linewidth=1)
        axes.plot(*centre, "D", color=colour, markersize=11, label=_label(row))
    # What a pre-train network has to beat: as accurate as the target alone, in less time.
    target = rows(comparison)[0]
    axes.axhline(100 * mean(target.best), color=TARGET_COLOUR, linestyle=":", zorder=0)
    axes.set_xlabel(f"total training time ({unit})", fontsize=LABEL_SIZE)
    _finish(figure, axes, comparison, path, zoom=False)


PLOTS = {
    "accuracy_epochs.png": ("Accuracy against epochs", plot_epochs),
    "accuracy_time.png": ("Accuracy against training time", plot_time),
    "best_time.png": ("Best accuracy against total time", plot_trade),
}
"""File name -> what the picture shows, and what writes it."""


@dataclass(frozen=True)
class _Curves:
    """The runs of a variant, the horizontal place of every epoch, and how wide a second is."""

    runs: Sequence[History]
    places: Sequence[Sequence[float]]
    second: float


def _figure(title: str, comparison: Comparison) -> tuple[Figure, Axes]:
    settings = comparison.variants[-1].settings
    sizes = ", ".join(map(str, settings.pretrain_sizes))
    figure = Figure(figsize=(13.3, 6.4), layout="constrained")
    figure.suptitle(
        f"{title}: {Path(settings.model).name} on {comparison.data}, "
        f"{settings.target_size} px, pre-trained at {sizes} px",
        fontsize=15,
        fontweight="bold",
    )
    return figure, figure.subplots()


def _finish(
    figure: Figure, axes: Axes, comparison: Comparison, path: Path, *, zoom: bool = True
) -> None:
    style(axes)
    best = "" if zoom else "best "
    axes.set_ylabel(f"{best}test accuracy (%)", fontsize=LABEL_SIZE)
    handles, _ = axes.get_legend_handles_labels()
    if zoom:
        _zoom(axes, comparison)
        handles += _MARKS
    seeds = len(comparison.seeds)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        fontsize=LABEL_SIZE - 1,
        frameon=False,
        title="" if seeds == 1 else f"best accuracy, mean ± standard deviation of {seeds} seeds",
    )
    with written_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def _zoom(axes: Axes, comparison: Comparison) -> None:
    """Leaves the steep rise of the first epochs out, where the differences would be too small."""
    shown = [
        100 * epoch.accuracy
        for runs in comparison.histories
        for run in runs
        for epoch in run.epochs[int(_MOST_HIDDEN * len(run.epochs)) :]
    ]
    low, high = min(shown), max(shown)
    margin = max(0.06 * (high - low), 0.1)
    axes.set_ylim(low - margin, high + margin)


def _draw(axes: Axes, curves: _Curves, colour: str, label: str) -> None:
    """A mean curve, thin up to the transition, and the transition itself."""
    epochs = range(max(len(run.epochs) for run in curves.runs))
    # Of extra training and plateaus: the seeds may differ in their numbers of epochs.
    there = [[n for n, run in enumerate(curves.runs) if e < len(run.epochs)] for e in epochs]
    x = [mean(curves.places[n][e] for n in there[e]) for e in epochs]
    y = [mean(100 * curves.runs[n].epochs[e].accuracy for n in there[e]) for e in epochs]
    last = [all(_is_last(curves.runs[n], e) for n in there[e]) for e in epochs]
    begin = last.index(True)
    dots = "." if len(x) <= _MOST_DOTS else None
    axes.plot(x[begin:], y[begin:], color=colour, linewidth=2.4, marker=dots, label=label)
    if begin:
        axes.plot(x[:begin], y[:begin], color=colour, **_THIN)
    common = min(len(run.epochs) for run in curves.runs)
    part = slice(begin, common)
    accuracies = [[100 * epoch.accuracy for epoch in run.epochs[part]] for run in curves.runs]
    draw_band(axes, x[part], accuracies, colour)
    _draw_changes(axes, curves, colour)


def _is_last(run: History, epoch: int) -> bool:
    return run.epochs[epoch].phase == run.epochs[-1].phase


def _draw_changes(axes: Axes, curves: _Curves, colour: str) -> None:
    """Transitions after the same epoch as one: to the accuracy right after it, and up again."""
    pairs = [(c, n) for n, run in enumerate(curves.runs) for c in run.changes]
    for epoch in sorted({change.epoch for change, _ in pairs}):
        here = [(change, n) for change, n in pairs if change.epoch == epoch]
        start = mean(curves.places[n][epoch - 1] for _, n in here)
        after = mean(curves.places[n][epoch - 1] + c.seconds * curves.second for c, n in here)
        following = mean(curves.places[n][epoch] for _, n in here)
        low = 100 * mean(change.after for change, _ in here)
        y = [
            100 * mean(curves.runs[n].epochs[epoch - 1].accuracy for _, n in here),
            low,
            100 * mean(curves.runs[n].epochs[epoch].accuracy for _, n in here),
        ]
        axes.plot([start, after, following], y, color=colour, linewidth=1.2, linestyle=":")
        axes.plot([after], [low], color=colour, **_RING)


def _colours(variants: Sequence[Variant]) -> Mapping[str, str]:
    """Orange the pre-train network; greys, greens, and blue to red from a kind's first to last."""
    colours = {}
    for variant in variants:
        kin = [other.key for other in variants if other.kind == variant.kind]
        if variant.kind in _SHADES:
            shades, first, last = _SHADES[variant.kind]
            place = first + (last - first) * kin.index(variant.key) / max(1, len(kin) - 1)
            colours[variant.key] = to_hex(colormaps[shades](place))
        else:
            colours[variant.key] = PRETRAIN_COLOUR
    return colours


def _label(row: Row) -> str:
    return f"{row.variant.name}: {percent(row.best)}"
