from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fxscale.cli import compile as compile_module
from fxscale.cli.app import app
from fxscale.errors import SizeError

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
runner = CliRunner()


def test_help_names_every_command_and_the_exit_codes() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Exit codes: 0 done; 1 an error" in result.stdout
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f" fxscale {command} " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_reads_well(command: str) -> None:
    """Every option is explained, a flag takes no value, and Markdown swallows no asterisk."""
    result = runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert "<bool>" not in result.stdout
    shown = " ".join(result.stdout.replace("│", " ").split())
    for option in get_command(app).commands[command].params:
        assert option.help
        assert option.help.replace("`", "") in shown, option.name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_same_options_for_scripts(command: str) -> None:
    found = {o.name: o.opts for o in get_command(app).commands[command].params}
    assert found["as_json"] == ["--json"]
    assert found["quiet"] == ["--quiet", "-q"]
    assert found["debug"] == ["--debug"]
    assert found.get("output") in (None, ["--output", "-o"])


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("fxscale")


@pytest.mark.parametrize(
    "arguments",
    [["plan"], ["nonsense"], ["plan", "resnet34", "--colour"], ["demo", "--seeds", "0"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


def _raise_size_error(*args: object, **kwargs: object) -> None:
    raise SizeError("input size 0: expected a positive size")


def test_an_error_is_one_line_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "compiled", _raise_size_error)
    result = runner.invoke(app, ["plan", "resnet34", "--input-size", "0"])
    assert result.exit_code == 1
    assert result.stderr == "error: input size 0: expected a positive size\n"
    assert result.stdout == ""


def test_debug_gives_the_error_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "compiled", _raise_size_error)
    result = runner.invoke(app, ["plan", "resnet34", "--debug"])
    assert isinstance(result.exception, SizeError)


def test_the_entry_point_in_a_process_of_its_own() -> None:
    code = "import sys; from fxscale.cli.app import main; sys.argv[0] = 'fxscale'; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "upscale", "none.safetensors", "-o", "full.safetensors"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "error: none.safetensors: No such file or directory\n"
    assert result.stdout == ""
