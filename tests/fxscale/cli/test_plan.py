from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fxscale import plan_picture
from fxscale.cli import compile as compile_module
from fxscale.cli.app import app
from fxscale.plan import ScalePlan
from tests.fxscale.plan_samples import overfeat_fast

runner = CliRunner()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of every compilation, which always gives the sample plan."""
    calls: list[tuple[Any, ...]] = []

    def compiled(*arguments: Any, quiet: bool) -> tuple[str, ScalePlan]:
        calls.append(arguments)
        return "target", overfeat_fast()

    monkeypatch.setattr(compile_module, "compiled", compiled)
    return calls


def test_prints_the_table(asked: list[tuple[Any, ...]]) -> None:
    command = ["plan", "m", "--input-size", "147", "--target-size", "231", "--kernels", "nearest"]
    result = runner.invoke(app, [*command, "--keep", "a", "--keep", "b.*"])
    assert result.exit_code == 0
    assert result.stdout == f"{overfeat_fast()}\n"
    assert asked == [("m", "147", "231", "nearest", ["a", "b.*"])]


@pytest.mark.usefixtures("asked")
def test_prints_json() -> None:
    result = runner.invoke(app, ["plan", "m", "--json"])
    assert result.stdout == overfeat_fast().to_json()


@pytest.mark.usefixtures("asked")
def test_writes_a_file_quietly(tmp_path: Path) -> None:
    result = runner.invoke(app, ["plan", "m", "-q", "-o", str(tmp_path / "plan.json")])
    assert (result.exit_code, result.output) == (0, "")
    assert ScalePlan.load(tmp_path / "plan.json") == overfeat_fast()


@pytest.mark.usefixtures("asked")
def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = runner.invoke(app, ["plan", "m", "-o", str(tmp_path / "none" / "plan.json")])
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path / 'none'}: the folder does not exist\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of every picture."""
    pytest.importorskip("matplotlib")
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(plan_picture, "save_picture", lambda *arguments: calls.append(arguments))
    return calls


@pytest.mark.usefixtures("asked")
def test_draws_both_networks(drawn: list[tuple[Any, ...]], tmp_path: Path) -> None:
    result = runner.invoke(app, ["plan", "m", "--graph", str(tmp_path / "m.svg")])
    assert result.exit_code == 0
    assert result.stdout == f"{overfeat_fast()}\n"
    assert drawn == [(overfeat_fast(), "target", tmp_path / "m.svg")]


def test_another_format_is_told_before_anything_is_built(
    asked: list[tuple[Any, ...]], drawn: list[tuple[Any, ...]]
) -> None:
    result = runner.invoke(app, ["plan", "m", "--graph", "m.gif"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: m.gif: the suffix of a picture says its format")
    assert asked == drawn == []


def test_a_missing_matplotlib_is_told_before_anything_is_built(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_picture, "find_spec", lambda name: None)
    result = runner.invoke(app, ["plan", "m", "--graph", "m.svg"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "pip install 'fxscale[train]'" in result.stderr
    assert asked == []
