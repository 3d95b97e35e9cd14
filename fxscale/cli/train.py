"""`fxscale train`: a network by the paper's method, on one device or many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxscale.cli.options import Debug, Quiet
from fxscale.cli.training_options import with_training_options

if TYPE_CHECKING:
    from fxscale.training.observers import TrainingObserver


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
            metavar="EPOCH[,EPOCH...]|auto|plateau|never",
            help="When to go over: after so many epochs; two before the rate first drops; when "
            "accuracy stops rising.",
        ),
    ] = "auto",
    progressive: Annotated[
        bool,
        typer.Option(
            "--progressive",
            help="Progressive resizing, for comparison: the network itself, unchanged, on the "
            "small images, too.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint in --output, if any."),
    ] = False,
    accelerator: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves to FOLDER/tensorboard, too.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a network: pre-train networks first, then, with their weights, the network itself.

    Writes `checkpoints/last.safetensors` and `best.safetensors`, `metrics.jsonl` and, at the end,
    `weights.safetensors` into the output folder. On several devices, also of several machines that
    share the folder: `torchrun --nproc-per-node 8 -m fxscale train ...`

    **Examples**

        fxscale train --model resnet34 --data imagenet --preset resnet34 -o runs/paper
        fxscale train --model resnet34 --data DIR --epochs 90 --resize-at 28 -o runs/a --resume
        fxscale train --model net.py:build --target-size 64 --pretrain-size 46 -o runs/digits
    """
    from rich.console import Console

    from fxscale.training.bar import Bar
    from fxscale.training.observers import TensorBoard
    from fxscale.training.run import train as run
    from fxscale.training.settings import Settings
    from fxscale.training.store import Store

    console = Console(quiet=quiet or os.environ.get("RANK", "0") != "0")
    observers: list[TrainingObserver] = [Bar(console)]
    if tensorboard:
        observers.append(TensorBoard(Store(output).tensorboard))
    result = run(
        Settings(**options, resize_at=resize_at, progressive=progressive),
        output,
        resume=resume,
        observers=observers,
        accelerator=accelerator,
    )
    console.print(
        f"accuracy {100 * result.epochs[-1].accuracy:.2f} % after {len(result.epochs)} epochs, "
        f"best {100 * result.best.accuracy:.2f} % (epoch {result.best.epoch}), "
        f"{result.seconds:.1f} s of training. Weights: {Store(output).weights}"
    )
