"""The options of `fxscale train` and `fxscale compare`: everything that a run is made of.

Declared once; `with_training_options` adds them to a command.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from enum import StrEnum
from functools import partial, wraps
from typing import Annotated, Any, TypeAlias, get_type_hints

import typer

from fxscale.cli.options import keep_option, kernels_option, parse_kernels


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


class Accelerator(StrEnum):
    """The devices to train on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


AcceleratorOption: TypeAlias = Annotated[
    Accelerator, typer.Option(help="Where to train; auto: on GPUs where there are any.")
]

# The help shows them in these groups, below the command's own.
_NETWORK = "Network and data"
_network = partial(typer.Option, rich_help_panel=_NETWORK)
_schedule = partial(typer.Option, rich_help_panel="Schedule")
_step = partial(typer.Option, rich_help_panel="Training step")
_machine = partial(typer.Option, rich_help_panel="Arithmetic and machine")
_run = partial(typer.Option, rich_help_panel="Faults, checkpoints, reports")


def training_options(
    model: Annotated[
        str,
        _network(
            help="overfeat_fast, resnet34, torchvision/NAME, timm/NAME or path/to/file.py:factory.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        _network(
            metavar="FOLDER|digits|synthetic",
            help="A folder with `train/CLASS/*` and `val/CLASS/*`, or `train*.tar` and `val*.tar`; "
            "digits that come with scikit-learn; noise, to measure speed.",
        ),
    ] = "digits",
    target_size: Annotated[
        int | None,
        _network(
            metavar="SIZE",
            help="Image size of the target network.",
            show_default="what the model tells, else 224",
        ),
    ] = None,
    pretrain_size: Annotated[
        str | None,
        _network(
            metavar="SIZE[,SIZE...]|none",
            help="Image sizes of the pre-train networks, increasing; none: the target alone.",
            show_default="the paper's for this model; 160 of 224",
        ),
    ] = None,
    progressive_size: Annotated[
        str | None,
        _network(
            metavar="SIZE[,SIZE...]",
            help="Progressive resizing: image sizes on which the target itself trains before its "
            "own, after the pre-train networks or, with --pretrain-size none, alone. A fully "
            "connected head is resized with the images.",
        ),
    ] = None,
    kernels: Annotated[str, kernels_option(rich_help_panel=_NETWORK)] = "paper",
    keep: Annotated[list[str] | None, keep_option(rich_help_panel=_NETWORK)] = None,
    preset: Annotated[
        Preset | None,
        _schedule(
            help="The paper's epochs, learning rates and weight decay, in place of the next five.",
            show_default="none",
        ),
    ] = None,
    epochs: Annotated[int, _schedule(min=1, help="Of all networks together.")] = 90,
    learning_rate: Annotated[float, _schedule(help="Before it first drops.")] = 0.1,
    milestones: Annotated[
        str | None,
        _schedule(
            metavar="EPOCH[,EPOCH...]",
            help="Completed epochs after which the rate drops; '' for never.",
            show_default="a third and two thirds of the epochs",
        ),
    ] = None,
    gamma: Annotated[float, _schedule(help="What the rate is then multiplied by.")] = 0.1,
    weight_decay: Annotated[float, _schedule(min=0, help="Of all parameters.")] = 1e-4,
    extra_training: Annotated[
        int,
        _schedule(
            min=0,
            help="Hold the rate after a transition until accuracy drops, for up to so many extra "
            "epochs (section 5.2).",
        ),
    ] = 0,
    warmup_after_resize: Annotated[
        float,
        _schedule(
            min=0,
            metavar="EPOCHS",
            help="Let the rate rise linearly over the first epochs after a transition; 0: at once.",
        ),
    ] = 0.0,
    raised_epochs: Annotated[
        int,
        _schedule(
            min=0,
            help="Train so many epochs after the last transition at the first learning rate, also "
            "behind its drop; then on as scheduled.",
        ),
    ] = 0,
    optimizer: Annotated[
        OptimizerName, _step(help="Its state goes through transitions, too.")
    ] = OptimizerName.sgd,
    momentum: Annotated[float, _step(help="Of SGD.")] = 0.9,
    batch_size: Annotated[
        int, _step(min=1, help="Images per step, over all processes together.")
    ] = 128,
    accumulate: Annotated[int, _step(min=1, help="Batches per process that make one step.")] = 1,
    clip_norm: Annotated[
        float | None, _step(help="Largest norm of the gradients.", show_default="none")
    ] = None,
    label_smoothing: Annotated[
        float, _step(help="Share of a label that goes to all classes alike.")
    ] = 0.0,
    mixup: Annotated[float, _step(help="Alpha of mix-up; 0: none.")] = 0.0,
    auxiliary_weight: Annotated[
        float, _step(help="Of the losses of auxiliary classifiers, as GoogLeNet has them.")
    ] = 0.3,
    average: Annotated[
        float, _step(help="Decay of a moving average of the weights (EMA); 0: none.")
    ] = 0.0,
    batchnorm_batches: Annotated[
        int, _step(min=0, help="Batches to re-estimate BatchNorm over at a transition.")
    ] = 20,
    precision: Annotated[
        Precision, _machine(help="Of the arithmetic; weights are float32.")
    ] = Precision.fp32,
    channels_last: Annotated[
        bool,
        _machine("--channels-last/--contiguous", help="Memory layout of images and weights."),
    ] = True,
    compile: Annotated[bool, _machine("--compile", help="Use torch.compile.")] = False,
    sync_batchnorm: Annotated[
        bool,
        _machine(
            "--sync-batchnorm",
            help="BatchNorm over the images of all processes instead of each one's own; on GPUs.",
        ),
    ] = False,
    seed: Annotated[int, _machine(min=0, help="Of weights, order and augmentation.")] = 0,
    deterministic: Annotated[
        bool, _machine("--deterministic", help="Deterministic algorithms alone.")
    ] = False,
    workers: Annotated[
        int | None,
        _machine(min=0, help="Loader processes.", show_default="cores per process, at most 8"),
    ] = None,
    on_corrupt: Annotated[
        OnCorrupt, _run(help="Stop at an unreadable image, or take the next and count it.")
    ] = OnCorrupt.error,
    checkpoint_every: Annotated[
        str, _run(metavar="INTERVAL", help="'1 epoch', '500 steps'.")
    ] = "1 epoch",
    log_every: Annotated[int, _run(min=1, help="Steps between reports.")] = 20,
    timeout: Annotated[
        float, _run(min=1, help="Seconds that a process waits for another one.")
    ] = 600.0,
) -> dict[str, Any]:
    """What was asked for, as arguments of `Settings`."""
    from fxscale.training.models import image_sizes

    how: dict[str, Any] = {"kernels": parse_kernels(kernels), "keep": tuple(keep or ())}
    small = None if pretrain_size is None else _sizes(pretrain_size)
    target, pretrain = image_sizes(model, target_size, small, **how)
    return {
        "model": model,
        "data": data,
        "target_size": target,
        "pretrain_sizes": pretrain,
        "progressive_sizes": numbers(progressive_size) if progressive_size else (),
        **how,
        "preset": None if preset is None else preset.value,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "milestones": _milestones(milestones, epochs),
        "gamma": gamma,
        "weight_decay": weight_decay,
        "extra_training": extra_training,
        "warmup_after_resize": warmup_after_resize,
        "raised_epochs": raised_epochs,
        "optimizer": optimizer.value,
        "momentum": momentum,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "clip_norm": clip_norm,
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "auxiliary_weight": auxiliary_weight,
        "average": average,
        "batchnorm_batches": batchnorm_batches,
        "precision": precision.value,
        "channels_last": channels_last,
        "compile": compile,
        "sync_batchnorm": sync_batchnorm,
        "seed": seed,
        "deterministic": deterministic,
        "workers": _usual_workers() if workers is None else workers,
        "on_corrupt": on_corrupt.value,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
        "timeout": timeout,
    }


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command these options, before its own; it gets them as its first argument, `options`.

    A command line is read from a function's signature, so the signatures are joined.
    """
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = list(inspect.signature(training_options).parameters.values())
    names = {parameter.name for parameter in shared}

    @wraps(command)
    def joined(**given: Any) -> None:
        options = training_options(**{name: given[name] for name in names})
        command(options, **{name: value for name, value in given.items() if name not in names})

    hints = {
        **get_type_hints(training_options, include_extras=True),
        **get_type_hints(command, include_extras=True),
    }
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in (*shared, *own)
    ]
    joined.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    joined.__annotations__ = {parameter.name: hints[parameter.name] for parameter in parameters}
    return joined


def _sizes(text: str) -> tuple[int, ...]:
    return () if text == "none" else numbers(text)


def _milestones(text: str | None, epochs: int) -> tuple[int, ...]:
    if text is None:  # as the paper does with ResNet-34: after 30 and 60 of 90
        return tuple(sorted({epochs // 3, 2 * epochs // 3} - {0}))
    return numbers(text) if text else ()


def numbers(text: str) -> tuple[int, ...]:
    """Of `"30,60"`. Raises typer's `BadParameter` for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write whole numbers, separated by commas: 30,60"
        ) from None


def _usual_workers() -> int:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, (os.cpu_count() or 1) // processes))
