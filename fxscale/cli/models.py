"""`fxscale models`: the names that other commands take."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from fxscale.cli.options import AsJson, Debug, Quiet


def models(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN",
            help="Part of a name, or a glob for it: resnet, 'timm/resnet*'.",
            show_default="all",
        ),
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the models that can be named here.

    Per model: its name; the input size that its published weights are made for, where one is
    known; its family, the module that defines it; whether trained weights are published. Nothing
    is built or downloaded. Whether a model compiles, `fxscale plan NAME` tells; a factory in a file
    of your own, path/to/file.py:factory, is a name, too. Ends with exit code 1 if no name fits.

    **Examples**

        fxscale models 'timm/resnet*'

        fxscale models torchvision/ --json
    """
    from fxscale.cli.tables import print_table
    from fxscale.models.catalogue import catalogue, missing_packages
    from fxscale.plan_table import format_size

    found, missing = catalogue(pattern), missing_packages()
    if as_json:
        content = {"models": [asdict(entry) for entry in found], "not_installed": missing}
        typer.echo(json.dumps(content))
    elif not quiet:
        print_table(
            ("name", "input", "family", "weights"),
            [
                (
                    entry.name,
                    "" if entry.input_size is None else format_size(entry.input_size),
                    entry.family,
                    "yes" if entry.weights else "",
                )
                for entry in found
            ],
            numbers="input",
        )
    for package in () if quiet else missing:
        typer.echo(
            f"{package} is not installed, its models are not listed: pip install 'fxscale[zoo]'",
            err=True,
        )
