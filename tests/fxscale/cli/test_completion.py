"""Shell completion, asked for as bash asks: by environment variables."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fxscale.cli.app import app

CODE = "import sys; sys.argv = ['fxscale', *sys.argv[1:]]; from fxscale.cli.app import main; main()"


def fxscale(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fxscale ", {command.callback.__name__ for command in app.registered_commands}),
        ("fxscale up", {"upscale"}),
        ("fxscale plan --gr", {"--graph"}),
        ("fxscale downscale m --init ", {"fan", "resample"}),
    ],
)
def test_bash_is_offered_commands_options_and_values(typed: str, offered: set[str]) -> None:
    words = typed.split(" ")
    result = fxscale(
        _FXSCALE_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1)
    )
    assert set(result.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str) -> None:
    # Otherwise the shell is found out from the parent process, which here is none.
    result = fxscale("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert result.returncode == 0
    assert "_FXSCALE_COMPLETE" in result.stdout


def test_completion_is_an_option_that_the_help_names() -> None:
    assert "--install-completion" in fxscale("--help").stdout
