from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fxscale.cli.app import app

runner = CliRunner()


def test_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    demo = pytest.importorskip("fxscale.training.demo")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(demo, "run_demo", lambda **options: asked.append(options))
    result = runner.invoke(app, ["demo", "--seeds", "3", "--epochs", "5", "-o", str(tmp_path)])
    assert result.exit_code == 0
    options = asked[0]
    assert options.pop("console") is not None
    assert options == {"seeds": 3, "epochs": 5, "output": tmp_path}


def test_json_is_the_file_of_figures_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    demo = pytest.importorskip("fxscale.training.demo")

    def run_demo(*, console: Console, output: Path, **options: Any) -> Any:
        console.print("a table")
        (output / "demo.json").write_text('{"runs": []}\n')
        return demo.DemoResult((), (), output / "demo.png", output / "demo.json")

    monkeypatch.setattr(demo, "run_demo", run_demo)
    result = runner.invoke(app, ["demo", "--json", "-o", str(tmp_path)])
    assert result.stdout == '{"runs": []}\n'


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fxscale.training.demo", raising=False)
    monkeypatch.delitem(sys.modules, "fxscale.training.data", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "lightning", None)
    result = runner.invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "pip install 'fxscale[train]'" in result.stderr
