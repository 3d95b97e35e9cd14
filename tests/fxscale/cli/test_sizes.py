from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fxscale
from fxscale.cli.app import app

runner = CliRunner()

MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "networks.py"
    path.write_text(MODEL)
    return f"{path}:build"


def test_lists_the_best_sizes(model: str) -> None:
    result = runner.invoke(app, ["sizes", model, "--target-size", "64", "-n", "3"])
    assert result.exit_code == 0, result.output
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["size", "ratio", "drift", "deviation", "pads", "multiple", "of"]
    assert len(lines) == 3
    from fxscale.models import registry

    best = fxscale.valid_sizes(registry.create(model), target_size=64)
    for line, valid in zip(lines, best, strict=False):
        size, ratio, *_ = line.split()
        assert size == "x".join(map(str, valid.size))
        assert float(ratio) == pytest.approx(valid.ratio, abs=5e-4)


def test_keeps_layers(model: str) -> None:
    result = runner.invoke(app, ["sizes", model, "--target-size", "64", "--keep", "nowhere"])
    assert result.exit_code == 1
    assert "the pattern 'nowhere' matches no convolution" in result.stderr


def test_json_holds_the_same_sizes(model: str) -> None:
    result = runner.invoke(app, ["sizes", model, "--target-size", "64", "-n", "3", "--json"])
    from fxscale.models import registry

    best = fxscale.valid_sizes(registry.create(model), target_size=64)[:3]
    assert json.loads(result.stdout) == [
        {
            "size": list(valid.size),
            "ratio": valid.ratio,
            "max_drift": valid.max_drift,
            "deviation": valid.deviation,
            "pad_operators": valid.pad_operators,
            "padded": valid.padded,
        }
        for valid in best
    ]
