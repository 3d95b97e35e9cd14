"""`fxscale downscale`: a model's pre-train network as a weights file."""

from __future__ import annotations

import json
from enum import StrEnum
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


class Init(StrEnum):
    """Where the pre-train network's weights come from."""

    fan = "fan"
    resample = "resample"


def downscale(
    model: Model,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The safetensors file to write."),
    ],
    input_size: InputSize = None,
    target_size: TargetSize = None,
    kernels: KernelPolicy = "paper",
    keep: Keep = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The target's weights, safetensors.",
            show_default="random",
        ),
    ] = None,
    init: Annotated[
        Init,
        typer.Option(
            help="fan: for untrained weights, keeps the variance of activations; "
            "resample: for trained weights, maps them down."
        ),
    ] = Init.fan,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the weights of a model's pre-train network, with the plan in the same file.

    **Example**

        fxscale downscale resnet34 --input-size 160 -o small.safetensors
    """
    from fxscale.cli.compile import compiled
    from fxscale.upscale import plan_of
    from fxscale.weights import save_weights

    _, small = compiled(
        model,
        input_size,
        target_size,
        kernels,
        keep,
        init=init.value,
        weights=weights,
        quiet=quiet,
    )
    plan = plan_of(small)
    save_weights(output, small.state_dict(), plan)
    if as_json:
        content = {
            "file": str(output),
            "model": plan.model,
            "target_size": plan.target_size,
            "pretrain_size": plan.pretrain_size,
            "mac_ratio": plan.mac_ratio,
        }
        typer.echo(json.dumps(content))
    elif not quiet:
        typer.echo(f"wrote {output}: {plan.model}, MAC ratio {plan.mac_ratio:.2f}")
