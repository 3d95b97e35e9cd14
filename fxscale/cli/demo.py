"""`fxscale demo`: what the method saves, on a small network and embedded images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxscale.cli.options import AsJson, Debug, Quiet
from fxscale.errors import FxscaleError


def demo(
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs of each kind; several give mean and spread.")
    ] = 1,
    epochs: Annotated[int, typer.Option(min=4, help="Epochs of each run.")] = 12,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where demo.png and demo.json go."),
    ] = Path("fxscale-demo"),
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a small network with and without the method, and compare.

    Equally many epochs of a residual network on handwritten digits that come with scikit-learn:
    the target network alone, and the pre-train network first with the transition two epochs before
    the learning rate drops. Nothing is downloaded. Takes one to three minutes per seed on two CPU
    cores.

    **Example**

        fxscale demo --seeds 3 -o results
    """
    from fxscale.cli.tables import progress_console

    try:
        from fxscale.training.demo import run_demo
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("fxscale"):
            raise
        raise FxscaleError(
            f"the demo needs the package {error.name!r}: pip install 'fxscale[train]'"
        ) from error
    console = progress_console(as_json=as_json, quiet=quiet)
    result = run_demo(seeds=seeds, epochs=epochs, output=output, console=console)
    if as_json:
        typer.echo(result.figures.read_text(encoding="utf-8"), nl=False)
