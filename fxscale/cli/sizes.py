"""`fxscale sizes`: the pre-train input sizes at which a model divides well."""

from __future__ import annotations

from typing import Annotated

import typer

from fxscale.cli.options import (
    Debug,
    Keep,
    KernelPolicy,
    Model,
    TargetSize,
    parse_kernels,
    parse_size,
)


def sizes(
    model: Model,
    target_size: TargetSize = None,
    kernels: KernelPolicy = "paper",
    keep: Keep = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, metavar="N", help="How many sizes to list.")
    ] = 20,
    debug: Debug = False,
) -> None:
    """List the pre-train input sizes of a model, the best first.

    Per size: its ratio to the target's, how far the grids of the two networks drift apart at most
    (pixels of a map), how far maps lie from the target's length times the ratio (root mean
    square), the pad operators it takes, and the largest of 32 and 8 that divides it.

    **Example**

        fxscale sizes resnet34 --target-size 224 -n 10
    """
    large = None if target_size is None else parse_size(target_size)
    policy = parse_kernels(kernels)

    from fxscale.models import registry
    from fxscale.valid_sizes import valid_sizes

    found = valid_sizes(
        registry.create(model), target_size=large, kernels=policy, keep=tuple(keep or ())
    )
    typer.echo(f"{'size':>12}  ratio  drift  deviation  pads  multiple of")
    for valid in found[:count]:
        size = "x".join(map(str, valid.size))
        multiple = 32 if valid.multiple_of_32 else 8 if valid.multiple_of_8 else ""
        typer.echo(
            f"{size:>12}  {valid.ratio:5.3f}  {valid.max_drift:5.3f}  {valid.deviation:9.4f}"
            f"  {valid.pad_operators:4d}  {multiple}".rstrip()
        )
