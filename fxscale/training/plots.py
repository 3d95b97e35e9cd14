"""Accuracy against epochs and against seconds, as in the paper's Figures 4 and 5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fxscale.files import written_whole
from fxscale.training.runs import Run, percent

TARGET_COLOUR = "#4c566a"
PRETRAIN_COLOUR = "#e08e3c"
SCALED_COLOUR = "#1f6fb4"
LABEL_SIZE = 12


def plot_comparison(
    target: Sequence[Run], scaled: Sequence[Run], path: Path, *, title: str
) -> None:
    """Writes a PNG of two panels that compare the target alone with pre-training first.

    `target` and `scaled` hold one run per seed; lines are means over the seeds, bands go from the
    lowest to the highest. Accuracy is in per cent of the test images, time is training time alone.
    """
    figure = Figure(figsize=(13.3, 5.6), layout="constrained")
    by_epoch, by_second = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title, fontsize=15, fontweight="bold")
    for axes, against_time in ((by_epoch, False), (by_second, True)):
        _draw(axes, target, scaled, against_time=against_time)
        style(axes)
    by_epoch.set_xlabel("epoch", fontsize=LABEL_SIZE)
    by_epoch.set_ylabel("test accuracy (%)", fontsize=LABEL_SIZE)
    by_second.set_xlabel("training time (s)", fontsize=LABEL_SIZE)
    by_epoch.legend(loc="lower right", fontsize=LABEL_SIZE - 1, frameon=False)
    _mark_saving(by_second, target, scaled)
    with written_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def style(axes: Axes) -> None:
    """A light grid, no frame, labels that can be read from the back row."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=LABEL_SIZE - 1)


def draw_band(
    axes: Axes, x: Sequence[float], curves: Sequence[Sequence[float]], colour: str
) -> None:
    """From the lowest to the highest of several curves."""
    if len(curves) > 1:
        low, high = ([end(at) for at in zip(*curves, strict=True)] for end in (min, max))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _draw(axes: Axes, target: Sequence[Run], scaled: Sequence[Run], *, against_time: bool) -> None:
    def positions(runs: Sequence[Run]) -> list[float]:
        if against_time:
            return _means([run.elapsed() for run in runs])
        return [float(record.epoch) for record in runs[0].records]

    x = positions(target)
    _curve(axes, x, target, slice(None), TARGET_COLOUR, f"target network alone ({_end(target)})")

    x = positions(scaled)
    change = scaled[0].change
    assert change is not None  # _draw is called with runs that went through a transition
    switch = change.epoch
    _curve(axes, x, scaled, slice(0, switch), PRETRAIN_COLOUR, "pre-train network")
    _curve(
        axes,
        x,
        scaled,
        slice(switch, None),
        SCALED_COLOUR,
        f"target network after it ({_end(scaled)})",
    )
    # The transition: from the pre-train network's last epoch, through the accuracy right after
    # it, to the target network's first epoch.
    start = x[switch - 1]
    changes = [run.change for run in scaled if run.change is not None]
    reestimated = 100 * mean(c.reestimated for c in changes)
    axes.plot(
        [start, start, x[switch]],
        [
            100 * mean(c.before for c in changes),
            reestimated,
            100 * mean(run.records[switch].accuracy for run in scaled),
        ],
        color=SCALED_COLOUR,
        linewidth=1.4,
        linestyle=":",
    )
    axes.plot(
        [start],
        [reestimated],
        marker="o",
        markersize=8,
        markerfacecolor="white",
        markeredgecolor=SCALED_COLOUR,
        markeredgewidth=2,
        linestyle="none",
        label="right after the transition",
    )
    axes.axvline(start, color=SCALED_COLOUR, alpha=0.3, linewidth=1, zorder=0)


def _curve(
    axes: Axes, x: Sequence[float], runs: Sequence[Run], part: slice, colour: str, label: str
) -> None:
    curves = [[100 * record.accuracy for record in run.records][part] for run in runs]
    axes.plot(x[part], _means(curves), color=colour, linewidth=2.4, label=label, marker=".")
    draw_band(axes, x[part], curves, colour)


def _mark_saving(axes: Axes, target: Sequence[Run], scaled: Sequence[Run]) -> None:
    """An arrow from the end of the target's run to the end of the shorter one."""
    full, short = (mean(run.seconds for run in runs) for runs in (target, scaled))
    if short >= full:
        return
    low, high = axes.get_ylim()
    height = low + 0.55 * (high - low)
    axes.annotate(
        "",
        xy=(short, height),
        xytext=(full, height),
        arrowprops={"arrowstyle": "-|>", "color": SCALED_COLOUR, "linewidth": 2},
    )
    axes.text(
        (short + full) / 2,
        height - 0.02 * (high - low),
        f"{100 * (1 - short / full):.0f} % of the\ntime saved",
        ha="center",
        va="top",
        color=SCALED_COLOUR,
        fontsize=LABEL_SIZE,
    )
    for end, colour in ((full, TARGET_COLOUR), (short, SCALED_COLOUR)):
        axes.vlines(end, height - 0.03 * (high - low), high, color=colour, alpha=0.5, linewidth=1)
    axes.set_ylim(low, high)


def _means(curves: Sequence[Sequence[float]]) -> list[float]:
    return [mean(values) for values in zip(*curves, strict=True)]


def _end(runs: Sequence[Run]) -> str:
    return percent(run.accuracy for run in runs)
