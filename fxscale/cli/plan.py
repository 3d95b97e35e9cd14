"""`fxscale plan`: what `downscale` would do with a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fxscale.cli.options import (
    AsJson,
    Debug,
    InputSize,
    Keep,
    KernelPolicy,
    Model,
    Quiet,
    TargetSize,
)


def plan(
    model: Model,
    input_size: InputSize = None,
    target_size: TargetSize = None,
    kernels: KernelPolicy = "paper",
    keep: Keep = None,
    as_json: AsJson = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the plan as JSON to a file.",
            show_default=False,
        ),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg|.png|.pdf",
            help="Draw both networks side by side, with what changed.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show how a model would shrink: kernels, sizes, paddings, cost.

    Per convolution: kernel and output size in the target and in the pre-train network, the factors
    s = k / k' (Table 1), the multiply-accumulates (MACs) of both, their ratio and its bounds
    (Eq. 4). A padding of 0/1 has nothing before and one pixel after. --graph needs matplotlib, of
    the extra `train`.

    **Examples**

        fxscale plan resnet34 --input-size 160
        fxscale plan resnet34 --input-size 160 --graph resnet34.svg
        fxscale plan torchvision/vgg16 --input-size 160 --keep features.0 --json
        fxscale plan my_models.py:build --kernels nearest -o plan.json
    """
    from fxscale.cli.compile import compiled
    from fxscale.cli.progress import steps
    from fxscale.plan_picture import check_drawing, save_picture
    from fxscale.upscale import plan_of

    if graph is not None:
        check_drawing(graph)  # before the model is built
    target, network = compiled(model, input_size, target_size, kernels, keep, quiet=quiet)
    found = plan_of(network)
    if output is not None:
        found.save(output)
    if graph is not None:
        with steps(None, quiet=quiet) as shown:
            shown(f"draw {graph}")
            save_picture(network, target, graph)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    elif not quiet:
        _show(found)


def _show(found: object) -> None:
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(found)
    else:
        typer.echo(str(found))
