"""The commands on real models, from a name to files and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner, Result

from fxscale.cli.app import app
from fxscale.plan import ScalePlan

runner = CliRunner()

FACTORY = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6 * 6 * 6, 5),
    )
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.py").write_text(FACTORY)
    return f"{tmp_path / 'model.py'}:build"


def target() -> nn.Module:
    scope: dict[str, object] = {}
    exec(FACTORY, scope)
    module = scope["build"]()
    assert isinstance(module, nn.Module)
    return module


def run(*arguments: object) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_from_a_model_to_small_weights_and_back(model: str, tmp_path: Path) -> None:
    small, full = tmp_path / "small.safetensors", tmp_path / "full.safetensors"
    written = run("downscale", model, "--input-size", 16, "--target-size", 24, "-o", small)
    assert written.exit_code == 0, written.output
    assert load_file(small)["0.weight"].shape == (4, 1, 2, 2)
    assert load_file(small)["8.weight"].shape == (5, 6 * 4 * 4)
    assert run("upscale", small, "-o", full).exit_code == 0
    target().load_state_dict(load_file(full), strict=True)


def test_downscale_says_as_json_what_it_wrote(model: str, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    options = (model, "--input-size", 16, "--target-size", 24)
    content = json.loads(run("downscale", *options, "-o", small, "--json").stdout)
    plan = ScalePlan.from_json(run("plan", *options, "--json").stdout)
    assert content == {
        "file": str(small),
        "model": plan.model,
        "target_size": [24, 24],
        "pretrain_size": [16, 16],
        "mac_ratio": plan.mac_ratio,
    }


def test_trained_weights_go_down_and_come_back_unchanged_at_the_targets_size(
    model: str, tmp_path: Path
) -> None:
    trained, small = tmp_path / "trained.safetensors", tmp_path / "small.safetensors"
    state = target().state_dict()
    save_file(state, trained)
    options = ("--input-size", 24, "--target-size", 24, "--kernels", "nearest")
    result = run(
        "downscale", model, *options, "--weights", trained, "--init", "resample", "-o", small
    )
    assert result.exit_code == 0, result.output
    assert all(torch.equal(value, state[key]) for key, value in load_file(small).items())


def test_weights_of_another_model_are_told(model: str, tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    other, small = tmp_path / "other.safetensors", tmp_path / "small.safetensors"
    result = run("downscale", model, "--input-size", 16, "--weights", other, "-o", small)
    assert result.exit_code == 1
    assert "holds other weights than the model" in result.stderr
    assert not small.exists()


def test_json_is_the_plan_with_the_options_in_it(model: str, tmp_path: Path) -> None:
    (tmp_path / "kernels.json").write_text('{"0": 2, "*": [3, 3]}')
    options = ("--input-size", 16, "--target-size", 24, "--kernels", tmp_path / "kernels.json")
    result = run("plan", model, *options, "--json")
    assert result.exit_code == 0, result.output
    plan = ScalePlan.from_json(result.stdout)
    assert (plan.target_size, plan.pretrain_size) == ((24, 24), (16, 16))
    assert [conv.pretrain_kernel_size for conv in plan.convs] == [(2, 2), (3, 3)]
    kept = ScalePlan.from_json(
        run("plan", model, "--input-size", 16, "--keep", "0", "--json").stdout
    )
    assert [conv.pretrain_kernel_size for conv in kept.convs] == [(3, 3), (2, 2)]


@pytest.mark.parametrize("size", [0, -5, 25])
def test_impossible_sizes_are_told_and_nothing_is_written(
    model: str, tmp_path: Path, size: int
) -> None:
    small = tmp_path / "small.safetensors"
    options = ("--input-size", size, "--target-size", 24, "-o", small)
    result = run("downscale", model, *options)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert str(size) in result.stderr
    assert not small.exists()


def test_a_misspelt_model_is_answered_with_the_right_one() -> None:
    result = run("plan", "overfeat-fast")
    assert result.exit_code == 1
    assert "did you mean 'overfeat_fast'" in result.stderr


def test_the_papers_first_network() -> None:
    plan = ScalePlan.from_json(run("plan", "overfeat_fast", "--input-size", 147, "--json").stdout)
    assert [conv.pretrain_kernel_size[0] for conv in plan.convs] == [7, 3, 2, 2, 2]
    (interface,) = plan.interfaces
    assert (interface.target_size, interface.pretrain_size) == ((6, 6), (4, 4))
    assert plan.target_macs == 2_801_403_904
    assert plan.mac_ratio > 4
    assert plan.max_drift <= 0.5


def test_the_papers_second_network() -> None:
    pytest.importorskip("torchvision")
    result = run("plan", "resnet34", "--input-size", 160, "--json")
    plan = ScalePlan.from_json(result.stdout)
    # torchvision's own figure for ResNet-34 is 3.66 GMAC.
    assert round(plan.target_macs / 1e9, 2) == 3.66
    assert plan.mac_ratio > 4
    assert round(plan.target_macs / plan.progressive_resizing_macs, 2) == 1.96
    assert plan.max_drift <= 0.25
    assert json.loads(result.stdout)["summary"]["mac_ratio"] == plan.mac_ratio
