from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import fxscale
from fxscale.cli.app import app
from fxscale.models.registry import create
from fxscale.onnx import packages as packages_module
from fxscale.onnx import plan_in, weights_in
from fxscale.weights import save_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

runner = CliRunner()
SOURCE = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5),
    )
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "net.py"
    path.write_text(SOURCE)
    return f"{path}:net"


@pytest.fixture(scope="module")
def small(model: str) -> fxscale.PretrainNetwork:
    torch.manual_seed(0)
    return fxscale.downscale(create(model), 8)


def test_exports_the_pretrain_network_and_validates_it(
    model: str, small: fxscale.PretrainNetwork, tmp_path: Path
) -> None:
    save_weights(tmp_path / "small.safetensors", small.state_dict(), small.plan)
    path = tmp_path / "small.onnx"
    weights = str(tmp_path / "small.safetensors")
    command = ["onnx", model, "--input-size", "8", "--weights", weights, "-o", str(path)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "equals torch" in result.stdout
    assert plan_in(path) == small.plan
    assert torch.equal(weights_in(path)["0.weight"], small.state_dict()["0.weight"])


def test_weights_of_a_network_with_other_paddings(
    model: str, small: fxscale.PretrainNetwork, tmp_path: Path
) -> None:
    """As another version of fxscale may have made it: all shapes are those of this one."""
    (conv,) = small.plan.convs
    (call,) = conv.calls
    other = replace(conv, calls=(replace(call, pretrain_padding=((0, 2), (0, 2))),))
    weights = tmp_path / "small.safetensors"
    save_weights(weights, small.state_dict(), replace(small.plan, convs=(other,)))
    command = ["onnx", model, "--input-size", "8", "--weights", str(weights), "-o", "small.onnx"]
    result = runner.invoke(app, command)
    assert result.exit_code == 1
    assert "with other paddings or map sizes than the one compiled now" in result.stderr


def test_checks_a_file_with_the_weights_in_it(
    model: str, small: fxscale.PretrainNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    fxscale.export_onnx(small, path)
    before = path.read_bytes()
    command = ["onnx", model, "--input-size", "8", "--check", str(path)]
    result = runner.invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["equal"] is True
    assert report["path"] == str(path)
    assert path.read_bytes() == before
    assert runner.invoke(app, [*command, "-q"]).output == ""


def test_a_file_that_differs_ends_with_an_error(
    model: str, small: fxscale.PretrainNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    fxscale.export_onnx(small, path)
    broken = onnx.load(path)
    (relu,) = [node for node in broken.graph.node if node.op_type == "Relu"]
    relu.op_type = "Abs"
    onnx.save(broken, path)
    result = runner.invoke(app, ["onnx", model, "--input-size", "8", "--check", str(path)])
    assert result.exit_code == 1
    assert "DIFFERS from torch" in result.stdout
    assert (
        "does not compute what torch does; it first diverges at Abs of layer '1'" in result.stderr
    )


def test_exports_the_target(model: str, small: fxscale.PretrainNetwork, tmp_path: Path) -> None:
    state = fxscale.upscale_state(small)
    save_file(state, tmp_path / "full.safetensors")
    path = tmp_path / "full.onnx"
    weights = str(tmp_path / "full.safetensors")
    command = ["onnx", model, "--target", "--weights", weights, "-o", str(path), "--opset", "18"]
    result = runner.invoke(app, [*command, "--target-size", "12"])
    assert result.exit_code == 0, result.output
    assert torch.equal(weights_in(path)["4.weight"], state["4.weight"])
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims[1:]] == [3, 12, 12]


def test_another_networks_file_is_told(
    model: str, small: fxscale.PretrainNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    fxscale.export_onnx(small, path)
    result = runner.invoke(app, ["onnx", model, "--target", "--check", str(path)])
    assert result.exit_code == 1
    assert "small.onnx holds another network than the model" in result.stderr
    other = torch.nn.Sequential()
    other.add_module("other", torch.nn.Conv2d(3, 4, 3))
    fxscale.export_onnx(other, path, input_size=8)
    result = runner.invoke(app, ["onnx", model, "--target", "--check", str(path)])
    assert result.exit_code == 1
    assert "none of its initialisers has the name of a parameter" in result.stderr


def test_wrong_usage(model: str, tmp_path: Path) -> None:
    both = ["-o", str(tmp_path / "a.onnx"), "--check", str(tmp_path / "a.onnx")]
    for options in ([], both):
        result = runner.invoke(app, ["onnx", model, *options])
        assert result.exit_code == 2
        assert "either --output FILE" in result.stderr


def test_missing_packages_are_told(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages_module, "find_spec", lambda name: None)
    result = runner.invoke(app, ["onnx", model, "-o", str(tmp_path / "a.onnx")])
    assert result.exit_code == 1
    assert "pip install 'fxscale[onnx]'" in result.stderr
