from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fxscale.cli.app import app
from fxscale.cli.training_options import training_options

runner = CliRunner()

NETWORK = """
from fxscale.training import SmallResNet

def build(num_classes):
    return SmallResNet(3, num_classes, widths=(16, 32))
"""


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    (tmp_path / "net.py").write_text(NETWORK)
    return [
        *("train", "--model", f"{tmp_path / 'net.py'}:build", "--accelerator", "cpu"),
        *("--target-size", "24", "--pretrain-size", "17", "--epochs", "3", "--milestones", "2"),
        *("--resize-at", "1", "--batch-size", "200", "--workers", "0", "-o", str(tmp_path / "run")),
    ]


def test_digits(options: list[str], tmp_path: Path) -> None:
    result = runner.invoke(app, [*options, "--tensorboard", "--average", "0.5"])
    assert result.exit_code == 0, result.output
    assert "transition to 24 px after epoch 1" in result.output
    assert "Weights:" in result.output
    told = result.stdout.splitlines()
    assert [line[:11] for line in told[:5]] == [
        *("epochs to t", "epoch   1 ·", "transition ", "epoch   2 ·", "epoch   3 ·")
    ]
    assert len(told) == 1 + 3 + 1 + 1  # a line each, also in a pipe: epochs, transition, result
    run = tmp_path / "run"
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        "best.safetensors",
        "last.safetensors",
    }
    assert (run / "weights.safetensors").is_file()
    assert len(list((run / "tensorboard").iterdir())) == 1
    epochs = [
        entry
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if (entry := json.loads(line))["event"] == "epoch"
    ]
    assert [entry["size"] for entry in epochs] == [17, 24, 24]
    assert [entry["learning_rate"] for entry in epochs] == pytest.approx([0.1, 0.1, 0.01])

    again = runner.invoke(app, options)
    assert again.exit_code == 1
    assert "holds a run already" in again.stderr
    resumed = runner.invoke(app, [*options, "--average", "0.5", "--resume", "-q"])
    assert resumed.exit_code == 0, resumed.output
    assert resumed.output == ""


def test_sizes_come_from_the_model(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n"
        "def build(num_classes):\n"
        "    convs = nn.Conv2d(3, 4, 5, 2, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()\n"
        "    return nn.Sequential(*convs, nn.Linear(4 * 12 * 12, num_classes))\n"
    )
    sizes = options.index("--target-size")
    result = runner.invoke(app, [*options[:sizes], *options[sizes + 4 :]])
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    epochs = [entry for entry in map(json.loads, lines) if entry["event"] == "epoch"]
    assert [entry["size"] for entry in epochs] == [14, 23, 23]


def test_json_is_all_of_stdout(options: list[str], tmp_path: Path) -> None:
    result = runner.invoke(app, [*options, "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for event, key in (("epoch", "epochs"), ("transition", "transitions")):
        found = [line for line in lines if line["event"] == event]
        assert [line | entry for line, entry in zip(found, content[key], strict=True)] == found
    assert content["file"] == str(tmp_path / "run" / "weights.safetensors")
    assert content["best_accuracy"] == max(e["accuracy"] for e in content["epochs"][1:])
    assert content["accuracy"] == content["epochs"][-1]["accuracy"]
    # Progress is told on stderr, and not at all with --quiet.
    assert sum(line.startswith("epoch ") for line in result.stderr.splitlines()) == 3
    resumed = runner.invoke(app, [*options, "--json", "--quiet", "--resume"])
    assert (resumed.exit_code, resumed.stderr) == (0, "")
    assert json.loads(resumed.stdout) == content


@pytest.mark.parametrize(
    ("epochs", "milestones", "drops"),
    [
        (90, None, (30, 60)),
        (5, None, (1, 3)),
        (2, None, (1,)),
        (1, None, ()),
        (9, "7", (7,)),
        (9, "", ()),
    ],
)
def test_the_rate_drops_after_thirds_unless_told(
    epochs: int, milestones: str | None, drops: tuple[int, ...]
) -> None:
    sizes: dict[str, Any] = {"target_size": 224, "pretrain_size": "160"}
    chosen = training_options("resnet34", epochs=epochs, milestones=milestones, **sizes)
    assert chosen["milestones"] == drops


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        (["--accelerator", "tpu"], 2, "Invalid value for '--accelerator'"),
        (["--resize-at", "soon"], 1, "does not say when to resize"),
        (["--milestones", "a"], 2, "write whole numbers"),
        (["--pretrain-size", "17,30"], 1, "must grow from phase to phase"),
        (["--data", "absent"], 1, "absent: no such folder"),
        (["--checkpoint-every", "now"], 1, "is no interval"),
        (["--model", "no_such"], 1, "there is no model 'no_such'"),
    ],
)
def test_mistakes(changed: list[str], code: int, words: str, options: list[str]) -> None:
    result = runner.invoke(app, [*options, *changed])
    assert result.exit_code == code
    assert words in result.output + result.stderr
