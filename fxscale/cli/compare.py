"""`fxscale compare`: the same network trained in several ways, in one report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxscale.cli.options import AsJson, Debug, Quiet
from fxscale.cli.training_options import (
    Accelerator,
    AcceleratorOption,
    numbers,
    with_training_options,
)

if TYPE_CHECKING:
    from fxscale.training.observers import TrainingObserver
    from fxscale.training.settings import Settings


@with_training_options
def compare(
    options: dict[str, Any],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="The report and all runs go here."),
    ],
    resize_at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHEN",
            help="When to go over to the target: after so many epochs, 28 or 14,28; auto: two "
            "before the rate first drops; plateau: when accuracy stops rising. Repeat it to "
            "compare several.",
            show_default="auto",
        ),
    ] = None,
    progressive_at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHEN|none",
            help="The same for progressive resizing; none leaves it out.",
            show_default="the first --resize-at",
        ),
    ] = None,
    target_epochs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EPOCHS[:DROP,...]",
            help="Epochs of the target alone, and after which its rate drops (by default after the "
            "same shares of them as for the others). Repeat it to compare several with the first.",
            show_default="as many as the others",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs of each kind, with seeds from --seed on.")
    ] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on; finished runs are kept, new transitions and seeds added."
        ),
    ] = False,
    accelerator: AcceleratorOption = Accelerator.auto,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a network in several ways with the same seeds, and write one report.

    The target network alone; the pre-train network alone; progressive resizing, which is the
    unchanged network on small images first (where its head does not take them, resized); and the
    pre-train network with a transition, one variant per `--resize-at`. Writes `comparison.html`
    (which holds its pictures), PNG files and `comparison.json`: accuracy against epochs and against
    training time, and a table of best accuracy (epoch) and total time. With --json,
    `comparison.json` is printed too, and the progress is told on stderr.

    Epochs on small images cost less, so that more of them may reach a higher accuracy in the time
    of the target alone: `--epochs 19 --target-epochs 14` compares 19 epochs, some of them small,
    with 14 of the target's; `--target-epochs 14 --target-epochs 10` also asks whether it would
    have done with fewer.

    **Examples**

        fxscale compare --model resnet34 --data DIR --resize-at 28 --resize-at 58 -o out
        fxscale compare --model resnet34 --data DIR --resize-at 28 --seeds 3 --resume -o out
        fxscale compare --model resnet34 --data DIR --epochs 120 --target-epochs 90:30,60 -o out
    """
    from fxscale.cli.tables import progress_console
    from fxscale.training.bar import Bar
    from fxscale.training.compare import compare as run
    from fxscale.training.compare import variants
    from fxscale.training.comparison_report import comparison_table, write_report
    from fxscale.training.extra import require
    from fxscale.training.settings import Settings

    require("matplotlib")
    first_process = os.environ.get("RANK", "0") == "0"
    console = progress_console(as_json=as_json, quiet=quiet or not first_process)

    def bar(title: str) -> Sequence[TrainingObserver]:
        (console.rule if console.is_terminal else console.print)(title)
        return [Bar(console)]

    progressive = None if progressive_at is None else [p for p in progressive_at if p != "none"]
    settings = Settings(**options, resize_at="never")  # each variant has its own
    lengths = [_length(text, settings) for text in target_epochs or ()]
    chosen = variants(settings, resize_at or ["auto"], progressive, lengths)
    comparison = run(
        chosen,
        output,
        seeds=seeds,
        resume=resume,
        observers=bar,
        note=console.print,
        accelerator=accelerator.value,
    )
    if not first_process:
        return
    report = write_report(comparison, output)
    console.print(comparison_table(comparison))
    console.print(f"Report: {report}")
    if as_json:
        typer.echo((output / "comparison.json").read_text(encoding="utf-8"), nl=False)


def _length(text: str, settings: Settings) -> tuple[int, tuple[int, ...]]:
    """Epochs and milestones of `"14:11,13"`, or of `"14"`, with those of the settings in scale."""
    epochs, colon, drops = text.partition(":")
    if not epochs.isdecimal():
        raise typer.BadParameter(
            f"{text!r}: write epochs, and drops behind a colon: 14 or 14:11,13"
        )
    count = int(epochs)
    if colon:
        return count, numbers(drops) if drops else ()
    scaled = sorted({round(drop * count / settings.epochs) for drop in settings.milestones})
    if len(scaled) < len(settings.milestones) or not all(0 < drop < count for drop in scaled):
        raise typer.BadParameter(
            f"{text!r}: the rate drops after {', '.join(map(str, settings.milestones))} of "
            f"{settings.epochs} epochs, which is too many drops to scale to {count}. Write them "
            f"behind a colon, or {text}: for none"
        )
    return count, tuple(scaled)
