"""`fxscale upscale`: a trained pre-train network's weights as the target network's."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fxscale.cli.options import AsJson, Debug, Quiet


class Interpolation(StrEnum):
    """How kernels grow."""

    bilinear = "bilinear"
    bicubic = "bicubic"


def upscale(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="SMALL",
            help="Weights of a pre-train network, a safetensors file.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The safetensors file to write."),
    ],
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="The plan, for weights saved without one.",
            show_default="the one in the file",
        ),
    ] = None,
    interpolation: Annotated[
        Interpolation, typer.Option(help="bilinear is the paper's.")
    ] = Interpolation.bicubic,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Map trained weights to the target network.

    Needs nothing but the file: neither the model's code nor the data. The result loads with
    model.load_state_dict(safetensors.torch.load_file(FILE)).

    **Example**

        fxscale upscale small.safetensors -o full.safetensors
    """
    from fxscale.cli.progress import steps
    from fxscale.plan import ScalePlan
    from fxscale.upscale import upscale_state
    from fxscale.weights import load_scaled_weights, load_weights, save_weights

    with steps(3, quiet=quiet) as shown:
        shown(f"read {weights}")
        if plan is None:
            state, found = load_scaled_weights(weights)
        else:
            state, found = load_weights(weights)[0], ScalePlan.load(plan)
        shown("map the weights")
        full = upscale_state(found, state, interpolation=interpolation.value)
        shown(f"write {output}")
        save_weights(output, full)
    resized = sum(entry.pretrain_shape != entry.target_shape for entry in found.state)
    if as_json:
        content = {
            "file": str(output),
            "model": found.model,
            "target_size": found.target_size,
            "entries": len(full),
            "resized": resized,
        }
        typer.echo(json.dumps(content))
    elif not quiet:
        typer.echo(f"wrote {output}: {found.model}, {resized} of {len(full)} entries resized")
