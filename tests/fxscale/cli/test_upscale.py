from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fxscale.cli.app import app
from fxscale.plan import StateMap
from fxscale.weights import save_weights
from tests.fxscale.plan_samples import plan

runner = CliRunner()
PLAN = plan(
    state=(
        StateMap("conv.weight", "kernel", (2, 3, 2, 2), (2, 3, 3, 3), (2, 3, 2, 2), (2, 3, 3, 3)),
        StateMap("conv.bias", "copy", (2,), (2,), (2,), (2,)),
    )
)
STATE = {"conv.weight": torch.ones(2, 3, 2, 2), "conv.bias": torch.tensor([1.0, 2.0])}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save_weights(tmp_path / "small.safetensors", STATE, PLAN)
    return tmp_path / "small.safetensors"


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return tmp_path / "full.safetensors"


def test_needs_nothing_but_the_file(small: Path, full: Path) -> None:
    result = runner.invoke(app, ["upscale", str(small), "-o", str(full)])
    assert result.exit_code == 0
    assert "Sample, 1 of 2 entries resized" in result.stdout
    state = load_file(full)
    # A constant kernel keeps its sum: (2/3)^2 times as large, on (3/2)^2 times as many taps.
    torch.testing.assert_close(state["conv.weight"], torch.full((2, 3, 3, 3), 4 / 9))
    assert torch.equal(state["conv.bias"], STATE["conv.bias"])


def test_a_plan_of_its_own_for_weights_saved_elsewhere(tmp_path: Path, full: Path) -> None:
    save_file(STATE, tmp_path / "bare.safetensors")
    PLAN.save(tmp_path / "plan.json")
    bare = str(tmp_path / "bare.safetensors")
    refused = runner.invoke(app, ["upscale", bare, "-o", str(full)])
    assert refused.exit_code == 1
    assert "carries no plan" in refused.stderr
    plan_file = str(tmp_path / "plan.json")
    result = runner.invoke(app, ["upscale", bare, "--plan", plan_file, "-o", str(full), "-q"])
    assert (result.exit_code, result.output) == (0, "")
    assert load_file(full)["conv.weight"].shape == (2, 3, 3, 3)


def test_a_truncated_file_is_told_and_nothing_is_written(small: Path, full: Path) -> None:
    small.write_bytes(small.read_bytes()[:-7])
    result = runner.invoke(app, ["upscale", str(small), "-o", str(full)])
    assert result.exit_code == 1
    assert "is not a whole safetensors file" in result.stderr
    assert list(small.parent.iterdir()) == [small]


def test_a_corrupt_plan_is_told_with_its_file(tmp_path: Path, full: Path) -> None:
    metadata = {"fxscale_plan": PLAN.to_json()[:100]}
    save_file(STATE, tmp_path / "small.safetensors", metadata=metadata)
    result = runner.invoke(app, ["upscale", str(tmp_path / "small.safetensors"), "-o", str(full)])
    assert result.exit_code == 1
    assert "small.safetensors is corrupt: it is not valid JSON" in result.stderr
    assert not full.exists()


def test_weights_that_do_not_fit_the_plan_are_told(tmp_path: Path, full: Path) -> None:
    wrong = STATE | {"conv.bias": torch.full((2,), torch.nan)}
    save_weights(tmp_path / "small.safetensors", wrong, PLAN)
    result = runner.invoke(app, ["upscale", str(tmp_path / "small.safetensors"), "-o", str(full)])
    assert result.exit_code == 1
    assert "conv.bias: expected finite values, found 2 NaN of 2" in result.stderr
    assert not full.exists()


def test_json_says_what_was_written(small: Path, full: Path) -> None:
    result = runner.invoke(app, ["upscale", str(small), "-o", str(full), "--json"])
    content = json.loads(result.stdout)
    assert content.pop("target_size") == list(PLAN.target_size)
    assert content == {"file": str(full), "model": "Sample", "entries": 2, "resized": 1}
