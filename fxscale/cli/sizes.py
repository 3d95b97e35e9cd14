"""`fxscale sizes`: the pre-train input sizes at which a model divides well."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from fxscale.cli.options import (
    AsJson,
    Debug,
    Keep,
    KernelPolicy,
    Model,
    Quiet,
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
    as_json: AsJson = False,
    quiet: Quiet = False,
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

    from fxscale.cli.progress import steps, tracked
    from fxscale.cli.tables import print_table

    with steps(None, quiet=quiet) as shown:
        shown(f"build {model}")
        from fxscale.models import registry
        from fxscale.valid_sizes import valid_sizes

        target = registry.create(model)
    found = valid_sizes(
        target,
        track=tracked(f"sizes of {model}", quiet=quiet),
        target_size=large,
        kernels=policy,
        keep=tuple(keep or ()),
    )[:count]
    if as_json:
        typer.echo(json.dumps([asdict(valid) for valid in found]))
    elif not quiet:
        print_table(
            ("size", "ratio", "drift", "deviation", "pads", "multiple of"),
            [
                (
                    "x".join(map(str, valid.size)),
                    f"{valid.ratio:.3f}",
                    f"{valid.max_drift:.3f}",
                    f"{valid.deviation:.4f}",
                    str(valid.pad_operators),
                    "32" if valid.multiple_of_32 else "8" if valid.multiple_of_8 else "",
                )
                for valid in found
            ],
            numbers="size ratio drift deviation pads",
        )
