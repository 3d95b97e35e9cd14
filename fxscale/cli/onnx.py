"""`fxscale onnx`: a network as an ONNX file, held against torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from torch import nn


def onnx(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The ONNX file to write.", show_default=False
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An ONNX file to validate, instead of writing one.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        bool, typer.Option("--target", help="The target network, not the pre-train network.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The network's weights, safetensors.",
            show_default="random; with --check those in the ONNX file",
        ),
    ] = None,
    input_size: InputSize = None,
    target_size: TargetSize = None,
    kernels: KernelPolicy = "paper",
    keep: Keep = None,
    opset: Annotated[
        int | None,
        typer.Option(help="Version of the ONNX operators.", show_default="what torch recommends"),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export a network to ONNX, and run the file in onnxruntime beside torch.

    The pre-train network, or with --target the target network, whose image has --target-size. Ends
    with exit code 1 if the file's outputs are not torch's; the file stays.

    **Examples**

        fxscale onnx resnet34 --input-size 160 --weights small.safetensors -o small.onnx

        fxscale onnx resnet34 --target --weights full.safetensors -o full.onnx

        fxscale onnx resnet34 --input-size 160 --check small.onnx
    """
    if (output is None) == (check is None):
        raise typer.BadParameter("give either --output FILE, to write one, or --check FILE")

    from fxscale.cli.compile import compiled, load_into
    from fxscale.cli.options import parse_size
    from fxscale.errors import OnnxError
    from fxscale.models import registry
    from fxscale.onnx import export_onnx, validate_onnx
    from fxscale.onnx.packages import require

    require("onnx", "onnxscript", "onnxruntime")  # before anything that takes time
    network: nn.Module
    if target:
        network = registry.create(model)
    else:
        network = compiled(model, input_size, target_size, kernels, keep, quiet=quiet).network
    if weights is not None:
        load_into(network, weights)
    elif check is not None:
        _load_from_onnx(network, check)
    if output is not None:
        size = parse_size(target_size) if target and target_size is not None else None
        export_onnx(network, output, input_size=size, opset=opset)
    path = output or check
    assert path is not None  # told above
    report = validate_onnx(path, network)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), allow_nan=False))
    elif not quiet:
        typer.echo(str(report))
    if not report.equal:
        where = f"; it first diverges at {report.divergence}" if report.divergence else ""
        raise OnnxError(f"{path} is not valid or does not compute what torch does{where}")


def _load_from_onnx(network: nn.Module, path: Path) -> None:
    """What the file computes with; what it left out as unused is left as it is."""
    from fxscale.errors import StateMismatchError
    from fxscale.onnx import weights_in

    own = network.state_dict()
    stored = {key: value for key, value in weights_in(path).items() if key in own}
    try:
        if not stored:
            raise RuntimeError("none of its initialisers has the name of a parameter")
        network.load_state_dict(stored, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())  # torch's message has several lines
        raise StateMismatchError(
            f"{path} holds another network than the model: {reason}"
        ) from error
