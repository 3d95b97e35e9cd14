"""`fxscale train`: a network by the paper's method, on one device or many."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxscale.cli.options import Debug, Keep, KernelPolicy, Quiet, parse_kernels

if TYPE_CHECKING:
    from fxscale.training.observers import TrainingObserver


class Preset(StrEnum):
    """The paper's schedules."""

    overfeat = "overfeat"
    resnet34 = "resnet34"


class OptimizerName(StrEnum):
    """What updates the weights."""

    sgd = "sgd"
    adamw = "adamw"


class Precision(StrEnum):
    """Of the arithmetic; weights are kept in float32."""

    fp32 = "fp32"
    bf16 = "bf16"


class OnCorrupt(StrEnum):
    """What to do about an image that cannot be read."""

    error = "error"
    skip = "skip"


def train(
    model: Annotated[
        str,
        typer.Option(
            help="overfeat_fast, resnet34, torchvision/NAME, timm/NAME or path/to/file.py:factory.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Checkpoints, metrics and weights go here."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|digits|synthetic",
            help="A folder with train/CLASS/* and val/CLASS/*, or train*.tar and val*.tar; "
            "digits that come with scikit-learn; noise, to measure speed.",
        ),
    ] = "digits",
    target_size: Annotated[int, typer.Option(help="Image size of the target network.")] = 224,
    pretrain_size: Annotated[
        str,
        typer.Option(
            metavar="SIZE[,SIZE...]|none",
            help="Image sizes of the pre-train networks, increasing; none: the target alone.",
        ),
    ] = "160",
    kernels: KernelPolicy = "paper",
    keep: Keep = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="The paper's epochs, learning rates and weight decay, in place of the next five.",
            show_default="none",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 90,
    learning_rate: Annotated[float, typer.Option()] = 0.1,
    milestones: Annotated[
        str,
        typer.Option(
            metavar="EPOCH[,EPOCH...]", help="Completed epochs after which the rate drops."
        ),
    ] = "30,60",
    gamma: Annotated[float, typer.Option(help="What the rate is then multiplied by.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(min=0)] = 1e-4,
    resize_at: Annotated[
        str,
        typer.Option(
            metavar="EPOCH[,EPOCH...]|auto|plateau|never",
            help="When to go over: after so many epochs; two before the rate first drops; when "
            "accuracy stops rising.",
        ),
    ] = "auto",
    extra_training: Annotated[
        int,
        typer.Option(
            min=0,
            help="Hold the rate after a transition until accuracy drops, for up to so many extra "
            "epochs (section 5.2).",
        ),
    ] = 0,
    optimizer: Annotated[OptimizerName, typer.Option()] = OptimizerName.sgd,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per step, over all processes together.")
    ] = 128,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Batches per process that make one step.")
    ] = 1,
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of the gradients.", show_default="none")
    ] = None,
    label_smoothing: Annotated[float, typer.Option()] = 0.0,
    mixup: Annotated[float, typer.Option(help="Alpha of mix-up; 0: none.")] = 0.0,
    average: Annotated[
        float, typer.Option(help="Decay of a moving average of the weights (EMA); 0: none.")
    ] = 0.0,
    batchnorm_batches: Annotated[
        int, typer.Option(min=0, help="Batches to re-estimate BatchNorm over at a transition.")
    ] = 20,
    precision: Annotated[Precision, typer.Option()] = Precision.fp32,
    channels_last: Annotated[bool, typer.Option("--channels-last/--contiguous")] = True,
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Deterministic algorithms alone.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Loader processes.", show_default="cores per process, at most 8"),
    ] = None,
    on_corrupt: Annotated[
        OnCorrupt, typer.Option(help="Stop at an unreadable image, or take the next and count it.")
    ] = OnCorrupt.error,
    checkpoint_every: Annotated[
        str, typer.Option(metavar="INTERVAL", help="'1 epoch', '500 steps'.")
    ] = "1 epoch",
    log_every: Annotated[int, typer.Option(min=1, help="Steps between reports.")] = 20,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint in --output, if any."),
    ] = False,
    accelerator: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that a process waits for another one.")
    ] = 600.0,
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
    options: dict[str, Any] = {
        "model": model,
        "data": data,
        "target_size": target_size,
        "pretrain_sizes": () if pretrain_size == "none" else _numbers(pretrain_size),
        "kernels": parse_kernels(kernels),
        "keep": tuple(keep or ()),
        "preset": None if preset is None else preset.value,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "milestones": _numbers(milestones) if milestones else (),
        "gamma": gamma,
        "weight_decay": weight_decay,
        "resize_at": resize_at,
        "extra_training": extra_training,
        "optimizer": optimizer.value,
        "momentum": momentum,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "clip_norm": clip_norm,
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "average": average,
        "batchnorm_batches": batchnorm_batches,
        "precision": precision.value,
        "channels_last": channels_last,
        "compile": compile,
        "seed": seed,
        "deterministic": deterministic,
        "workers": _usual_workers() if workers is None else workers,
        "on_corrupt": on_corrupt.value,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
        "timeout": timeout,
    }
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
        Settings(**options), output, resume=resume, observers=observers, accelerator=accelerator
    )
    console.print(
        f"accuracy {100 * result.epochs[-1].accuracy:.2f} % after {len(result.epochs)} epochs, "
        f"best {100 * result.best.accuracy:.2f} % (epoch {result.best.epoch}), "
        f"{result.seconds:.1f} s of training. Weights: {Store(output).weights}"
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write whole numbers, separated by commas: 30,60"
        ) from None


def _usual_workers() -> int:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, (os.cpu_count() or 1) // processes))
