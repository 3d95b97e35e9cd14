"""The README's Python runs, its two commands are those of CI, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer import Context
from typer.core import TyperGroup
from typer.main import get_command

from fxscale.cli.app import app
from tests.code_blocks import code_blocks, run_python

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


# Lightning's: a deprecation in its own code.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.slow
def test_python_blocks_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("torchvision", "timm", "lightning", "matplotlib", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    assert run_python(README) >= 6


def test_the_two_commands_are_those_of_ci() -> None:
    commands = [source.strip() for _, source in code_blocks(README, "bash")][:2]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [command for command in ci if command.startswith("python3 -m venv")] == commands
    assert commands[0].endswith("fxscale demo")
    assert commands[1].endswith("pytest")


def command_lines(page: Path) -> list[list[str]]:
    """The words behind `fxscale` in every line of a page's shell blocks that begins with it."""
    return [
        shlex.split(line, comments=True)[1:]
        for _, source in code_blocks(page, "bash")
        for line in source.splitlines()
        if line.startswith("fxscale ")
    ]


@pytest.mark.parametrize("page", ["README.md", "docs/command-line.md"])
def test_command_lines_are_understood(page: str) -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    options = {opt for option in group.params for opt in option.opts}
    lines = command_lines(ROOT / page)
    assert lines
    for name, *arguments in lines:
        if name in options:
            continue
        command = group.get_command(Context(group), name)
        assert command is not None, name
        command.make_context(name, arguments, parent=Context(group))  # parses, runs nothing


def test_every_command_has_a_line_and_an_example() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    page = ROOT / "docs" / "command-line.md"
    listed = re.findall(r"^\| `([a-z]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(group.commands)
    assert set(group.commands) <= {name for name, *_ in command_lines(page)}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), link
        assert not anchor or anchor in anchors(page), link


def anchors(page: Path) -> set[str]:
    """What links may name on a page: GitHub's names of its headings."""
    return {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
