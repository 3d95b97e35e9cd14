from __future__ import annotations

import io
from contextlib import redirect_stderr
from typing import Any

import pytest
from torch import nn

import fxscale
from fxscale.cli.progress import ShownPasses, steps, tracked


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To redirect stderr to: a terminal, whatever the environment says."""
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def compile_shown(shown: Any) -> ShownPasses:
    passes = ShownPasses(shown)
    fxscale.downscale(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), 16, target_size=24, timings=passes
    )
    return passes


def test_every_pass_is_a_step() -> None:
    seen: list[str] = []
    passes = compile_shown(seen.append)
    assert seen == list(passes.seconds)
    assert len(seen) == ShownPasses.COUNT


def test_a_terminal_shows_the_steps(screen: Terminal) -> None:
    with redirect_stderr(screen), steps(ShownPasses.COUNT) as shown:
        compile_shown(shown)
    assert "verify" in screen.getvalue()


def test_a_loop_gets_all_its_items(screen: Terminal) -> None:
    with redirect_stderr(screen):
        assert list(tracked("items")(range(3))) == [0, 1, 2]
    assert "items" in screen.getvalue()


@pytest.mark.parametrize("quiet", [False, True])
def test_a_pipe_and_a_quiet_terminal_show_nothing(quiet: bool, screen: Terminal) -> None:
    where = screen if quiet else io.StringIO()
    with redirect_stderr(where):
        with steps(2, quiet=quiet) as shown:
            shown("first")
        assert list(tracked("items", quiet=quiet)("abc")) == ["a", "b", "c"]
    assert where.getvalue() == ""
