"""Every way in which a command can fail: its exit code, and one line on stderr that says why."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from fxscale.cli.app import app

runner = CliRunner()

MODELS = """
import torch
from torch import nn

def good():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))

def dense():
    return nn.Linear(3, 4)

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        return x if x.sum() > 0 else -x

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with models and files that are wrong in their own ways."""
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(MODELS)
    Path("broken.py").write_text("1 / 0\n")
    Path("list.json").write_text("[3]")
    Path("text.safetensors").write_text("no tensors")
    save_file({"other": torch.zeros(1)}, "other.safetensors")
    Path("taken").mkdir()
    return tmp_path


ERRORS = {
    # models
    "models nothing-like-it": "no model fits",
    # a model's name, in any command
    "plan reznet34": "there is no model 'reznet34'; did you mean 'resnet34'",
    "plan torchvision/none": "there is no model 'torchvision/none'",
    "plan none.py:good": "there is no file",
    "plan m.py": "names a file but no factory",
    "plan m.py:god": "did you mean 'good'",
    "plan m.py:number": "returned a int, expected a torch.nn.Module",
    "plan broken.py:x": "ZeroDivisionError",
    # what cannot be compiled
    "plan m.py:dense": "convolution",
    "plan m.py:Branch --target-size 32": "unsupported model at node",
    # sizes
    "plan m.py:good --input-size 0": "0",
    "plan m.py:good --input-size 300 --target-size 224": "larger than the target's",
    "plan m.py:good --input-size 8x8x8 --target-size 24": "8",
    "plan m.py:good --keep none.*": "matches no convolution",
    "sizes m.py:dense": "convolution",
    "sizes m.py:good --keep none.*": "matches no convolution",
    "sizes reznet34": "there is no model",
    # files
    "plan m.py:good -o none/plan.json": "none: the folder does not exist",
    "plan m.py:good -o taken": "taken: is a folder",
    "plan m.py:good --graph a.gif": "one of .svg, .png, .pdf",
    "plan m.py:good --graph none/a.svg": "none: the folder does not exist",
    "downscale m.py:good -o none/a.safetensors": "none: the folder does not exist",
    "downscale m.py:good --weights none.safetensors -o a": "none.safetensors: No such file",
    "downscale m.py:good --weights text.safetensors -o a": "text.safetensors",
    "downscale m.py:good --weights other.safetensors -o a": "Missing key(s)",
    "upscale none.safetensors -o a": "none.safetensors: No such file",
    "upscale text.safetensors -o a": "is not a whole safetensors file",
    "upscale other.safetensors -o a": "carries no plan",
    "upscale other.safetensors --plan none.json -o a": "none.json: No such file",
    "upscale other.safetensors --plan list.json -o a": "list.json",
    # what has been exported, or is to be trained
    "onnx reznet34 -o a.onnx": "there is no model",
    "onnx m.py:good --input-size 16 --check none.onnx": "none.onnx",
    "onnx m.py:good --input-size 16 --target-size 24 -o none/a.onnx": "none: the folder does not",
    "train --model reznet34 -o a": "there is no model",
    "train --model m.py:good --data none -o a": "none: no such folder",
    "compare --model reznet34 -o a": "there is no model",
    "compare --model m.py:good --data none --resize-at 3 -o a": "none: no such folder",
}
"""Command -> what its message says."""

WRONG_USAGE = {
    "": "",  # the help
    "none": "No such command",
    "plan": "Missing argument",
    "sizes": "Missing argument",
    "upscale": "Missing argument",
    "upscale a.safetensors": "Missing option",
    "downscale m.py:good": "Missing option",
    "plan m.py:good --none": "No such option",
    "plan m.py:good --input-size big": "is not a size",
    "plan m.py:good --target-size 1.5": "is not a size",
    "plan m.py:good --kernels none": "is neither paper, nearest nor a file",
    "plan m.py:good --kernels list.json": "must hold an object",
    "sizes m.py:good -n 0": "Invalid value",
    "sizes m.py:good --kernels none": "is neither paper, nearest nor a file",
    "downscale m.py:good --init none -o a": "Invalid value",
    "upscale a --interpolation none -o a": "Invalid value",
    "onnx m.py:good": "either --output",
    "onnx m.py:good -o a.onnx --check b.onnx": "either --output",
    "train -o a": "Missing option",
    "train --model m.py:good": "Missing option",
    "train --model m.py:good -o a --accelerator tpu": "Invalid value",
    "compare --model m.py:good": "Missing option",
    "compare --model m.py:good -o a --seeds 0": "Invalid value",
    "demo --seeds 0": "Invalid value",
    "demo --epochs 3": "Invalid value",
    "models a b": "unexpected extra argument",
}


@pytest.mark.parametrize("command", ERRORS)
def test_errors_exit_with_1_and_are_one_line(folder: Path, command: str) -> None:
    before = {path.name for path in folder.iterdir()}
    if "torchvision/" in command:
        pytest.importorskip("torchvision")
    if "--graph" in command or command.startswith(("train", "compare")):
        pytest.importorskip("matplotlib")  # of the extra `train`
    if command.startswith("onnx"):
        pytest.importorskip("onnxscript")
    result = runner.invoke(app, command.split())
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert ERRORS[command] in result.stderr
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == before


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", WRONG_USAGE)
def test_wrong_usage_exits_with_2(command: str) -> None:
    result = runner.invoke(app, command.split(), env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    assert WRONG_USAGE[command] in result.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["plan m.py:dense", "upscale none.safetensors -o a"])
def test_debug_shows_where_an_error_comes_from(command: str) -> None:
    result = runner.invoke(app, [*command.split(), "--debug"])
    assert result.exit_code == 1
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", ["json", "quiet"])
def test_the_same_commands_succeed_with_0(kind: str) -> None:
    pytest.importorskip("matplotlib")
    for command in (
        "models overfeat_fast",
        "sizes m.py:good --target-size 24 -n 2",
        "plan m.py:good --input-size 16 --target-size 24 --graph a.svg -o plan.json",
        "downscale m.py:good --input-size 16 --target-size 24 -o small.safetensors",
        "upscale small.safetensors -o full.safetensors",
    ):
        result = runner.invoke(app, [*command.split(), f"--{kind}"])
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        assert json.loads(result.stdout) if kind == "json" else result.stdout == ""
    assert Path("full.safetensors").is_file()
    assert Path("a.svg").read_text(encoding="utf-8").count("<text") > 20


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import time\ndef slow():\n    open('begun', 'w').close()\n    time.sleep(60)\n"
    )
    code = (
        "import signal, sys; from fxscale.cli.app import main; sys.argv[0] = 'fxscale'\n"
        # Ignored, if a shell started the tests in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler); main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "plan", "m.py:slow"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
