"""`fxscale plan`: what `downscale` would do with a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fxscale.cli.options import Debug, InputSize, Keep, KernelPolicy, Model, Quiet, TargetSize


def plan(
    model: Model,
    input_size: InputSize = None,
    target_size: TargetSize = None,
    kernels: KernelPolicy = "paper",
    keep: Keep = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the plan as JSON to a file."),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show how a model would shrink: kernels, sizes, paddings, cost.

    Per convolution: kernel and output size in the target and in the pre-train network, the factors
    s = k / k' (Table 1), the multiply-accumulates (MACs) of both, their ratio and its bounds
    (Eq. 4). A padding of 0/1 has nothing before and one pixel after.

    **Examples**

        fxscale plan resnet34 --input-size 160
        fxscale plan torchvision/vgg16 --input-size 160 --keep features.0 --json
        fxscale plan my_models.py:build --kernels nearest -o plan.json
    """
    from fxscale.cli.compile import compiled
    from fxscale.upscale import plan_of

    found = plan_of(compiled(model, input_size, target_size, kernels, keep))
    if output is not None:
        found.save(output)
    if json:
        typer.echo(found.to_json(), nl=False)
    elif not quiet:
        _show(found)


def _show(found: object) -> None:
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(found)
    else:
        typer.echo(str(found))
