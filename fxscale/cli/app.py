"""The entry point: commands, and how errors reach the user."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fxscale.cli.compare import compare
from fxscale.cli.demo import demo
from fxscale.cli.downscale import downscale
from fxscale.cli.models import models
from fxscale.cli.onnx import onnx
from fxscale.cli.plan import plan
from fxscale.cli.sizes import sizes
from fxscale.cli.train import train
from fxscale.cli.upscale import upscale
from fxscale.errors import FxscaleError


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """The help of newer typer writes a value's type behind every option, also behind flags."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


class _Command(TyperCommand):
    """A command whose help shows flags as flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))


class _Commands(TyperGroup):
    """Turns the errors that a user can cause into one line on stderr and exit code 1."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (FxscaleError, OSError) as error:
            if isinstance(error, BrokenPipeError) or ctx.find_root().meta.get("fxscale.debug"):
                raise
            typer.secho(f"error: {_explain(error)}", err=True, fg=typer.colors.RED)
            raise typer.Exit(1) from None


def _explain(error: FxscaleError | OSError) -> str:
    """In one line, for logs and scripts; the lines of a list are separated by semicolons."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines).replace(":; ", ": ")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"fxscale {version('fxscale')}")
    except PackageNotFoundError:
        typer.echo("fxscale, not installed")
    raise typer.Exit


def _fxscale(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train a CNN first as a smaller pre-train network, then go on with the real one.

    Exit codes: 0 done; 1 an error, told in one line on stderr; 2 wrong usage; 130 interrupted.
    """


app = typer.Typer(
    name="fxscale",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(_fxscale)
for command in (plan, sizes, downscale, upscale, onnx, train, compare, demo, models):
    app.command(cls=_Command)(command)


def main() -> None:
    """Runs the command line of this process."""
    app()
