"""`fxscale train`: a network by the paper's method, on one device or many."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxscale.cli.options import AsJson, Debug, Quiet
from fxscale.cli.training_options import (
    Accelerator,
    AcceleratorOption,
    with_training_options,
)

if TYPE_CHECKING:
    from fxscale.training.observers import TrainingObserver
    from fxscale.training.run import TrainingResult


@with_training_options
def train(
    options: dict[str, Any],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Checkpoints, metrics and weights go here."
        ),
    ],
    resize_at: Annotated[
        str,
        typer.Option(
            metavar="WHEN",
            help="When to go over: after so many epochs, 28 or 14,28; auto: two before the rate "
            "first drops; plateau: when accuracy stops rising; never.",
        ),
    ] = "auto",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint in --output, if any."),
    ] = False,
    accelerator: AcceleratorOption = Accelerator.auto,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves to FOLDER/tensorboard, too.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a network: pre-train networks first, then, with their weights, the network itself.

    Writes `checkpoints/last.safetensors` and `best.safetensors`, `metrics.jsonl` and, at the end,
    `weights.safetensors` into the output folder. On several devices, also of several machines that
    share the folder: `torchrun --nproc-per-node 8 -m fxscale train ...` With --json, the progress
    is told on stderr.

    **Examples**

        fxscale train --model resnet34 --data imagenet --preset resnet34 -o runs/paper
        fxscale train --model resnet34 --data DIR --epochs 90 --resize-at 28 -o runs/a --resume
        fxscale train --model net.py:build --target-size 64 --pretrain-size 46 -o runs/digits
    """
    from fxscale.cli.tables import progress_console
    from fxscale.training.bar import Bar
    from fxscale.training.observers import TensorBoard
    from fxscale.training.run import train as run
    from fxscale.training.settings import Settings
    from fxscale.training.store import Store

    first_process = os.environ.get("RANK", "0") == "0"
    console = progress_console(as_json=as_json, quiet=quiet or not first_process)
    observers: list[TrainingObserver] = [Bar(console)]
    if tensorboard:
        observers.append(TensorBoard(Store(output).tensorboard))
    result = run(
        Settings(**options, resize_at=resize_at),
        output,
        resume=resume,
        observers=observers,
        accelerator=accelerator.value,
    )
    weights = Store(output).weights
    if as_json and first_process:
        typer.echo(json.dumps(_as_json(result, weights)))
    console.print(
        f"accuracy {100 * result.epochs[-1].accuracy:.2f} % after {len(result.epochs)} epochs, "
        f"best {100 * result.best.accuracy:.2f} % (epoch {result.best.epoch}), "
        f"{result.seconds:.1f} s of training. Weights: {weights}"
    )


def _as_json(result: TrainingResult, weights: Path) -> dict[str, Any]:
    """What was trained and how it went; epochs and transitions as in `metrics.jsonl`."""
    return {
        "file": str(weights),
        "accuracy": result.epochs[-1].accuracy,
        "best_accuracy": result.best.accuracy,
        "best_epoch": result.best.epoch,
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
        "epochs": [asdict(epoch) for epoch in result.epochs],
        "transitions": [asdict(c) | {"seconds": c.seconds} for c in result.changes],
    }
