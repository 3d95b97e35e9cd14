"""The demo's table: what two kinds of run took and reached."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from rich.table import Table

from fxscale.training.runs import Run, of_changes, percent, seconds, spread


def comparison_table(target: Sequence[Run], scaled: Sequence[Run]) -> Table:
    """Target alone against pre-training first; mean ± standard deviation if there are more seeds.

    `target` and `scaled` hold one run per seed, in the same order.
    """
    count = len(target)
    table = Table(
        title=f"{count} seeds, mean ± standard deviation" if count > 1 else None,
        caption="Training times; evaluations are left out. Epoch times are medians.",
    )
    table.add_column("")
    table.add_column("target alone", justify="right")
    table.add_column("pre-train network first", justify="right")

    small = [run.epoch_seconds("pre-train") for run in scaled]
    # The target's epochs are the same in both runs, so all of them count.
    large = [
        mean([alone.epoch_seconds("target"), after.epoch_seconds("target")])
        for alone, after in zip(target, scaled, strict=True)
    ]
    ratio = spread([a / b for a, b in zip(large, small, strict=True)], 2)
    table.add_row("one epoch, pre-train network", "", seconds(small))
    table.add_row("one epoch, target network", seconds(large), seconds(large))
    table.add_row("speed-up of an epoch", "", f"{ratio}×", end_section=True)

    switch = next(run.change.epoch for run in scaled if run.change is not None)
    table.add_row(
        f"accuracy after epoch {switch}",
        percent(run.records[switch - 1].accuracy for run in target),
        percent(of_changes(scaled, lambda change: change.before)),
    )
    table.add_row(
        "right after the transition", "", percent(of_changes(scaled, lambda change: change.after))
    )
    table.add_row(
        "with BatchNorm re-estimated",
        "",
        percent(of_changes(scaled, lambda change: change.reestimated)),
    )
    table.add_row(
        "after one more epoch",
        percent(run.records[switch].accuracy for run in target),
        percent(run.records[switch].accuracy for run in scaled),
    )
    table.add_row(
        "[bold]at the end[/bold]",
        f"[bold]{percent(run.accuracy for run in target)}[/bold]",
        f"[bold]{percent(run.accuracy for run in scaled)}[/bold]",
        end_section=True,
    )
    table.add_row(
        "total training time",
        seconds(run.seconds for run in target),
        seconds(run.seconds for run in scaled),
    )
    saved = [1 - s.seconds / t.seconds for t, s in zip(target, scaled, strict=True)]
    table.add_row("[bold]time saved[/bold]", "", f"[bold]{percent(saved, 0)}[/bold]")
    steady = [1 - s.steady_seconds / t.steady_seconds for t, s in zip(target, scaled, strict=True)]
    table.add_row("time saved at median epoch times", "", percent(steady, 0))
    return table
