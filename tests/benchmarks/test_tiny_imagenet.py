"""The experiment in miniature: it can be stopped and resumed, and its tables add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _tiny_imagenet_training
from benchmarks._tiny_imagenet_report import RunNames, report
from fxscale.errors import FxscaleError
from fxscale.training import Change, EpochRecord, Run
from tests.benchmarks.tiny_images import run_tiny_imagenet, write_images

RUNS = [
    "target alone",
    "resized at epoch 1",
    "resized at epoch 2",
    "progressive resizing, epoch 1",
    "progressive resizing, epoch 2",
    "pre-train alone",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tiny_imagenet_training, "ROUNDS", 1)


def journal(output: Path) -> list[dict[str, Any]]:
    lines = (output / "tiny_imagenet.jsonl").read_text().splitlines()
    return [json.loads(line)["run"] for line in lines]


def outcome(run: dict[str, Any]) -> list[tuple[float, float]]:
    return [(record["train_loss"], record["accuracy"]) for record in run["records"]]


def test_experiment_can_be_resumed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_tiny_imagenet(data, tmp_path / "a")
    complete = journal(tmp_path / "a")
    assert [run["name"] for run in complete] == RUNS
    assert [[r["size"] for r in run["records"]] for run in complete] == [
        [32, 32, 32], [24, 32, 32], [24, 24, 32], [24, 32, 32], [24, 24, 32], [24, 24, 24],
    ]  # fmt: skip
    assert (tmp_path / "a" / "tiny_imagenet.md").read_text().startswith("# Tiny ImageNet")

    # Finished: nothing is trained again.
    capsys.readouterr()
    run_tiny_imagenet(data, tmp_path / "a")
    assert "loss" not in capsys.readouterr().out
    assert journal(tmp_path / "a") == complete

    # Stopped after three runs, with one checkpoint lost: the rest comes out the same.
    path = tmp_path / "a" / "tiny_imagenet.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:3]))
    (tmp_path / "a" / "kept" / "resized-seed0-epoch2.pt").unlink()
    run_tiny_imagenet(data, tmp_path / "a")
    assert [outcome(run) for run in journal(tmp_path / "a")] == [outcome(run) for run in complete]


def test_progressive_resizing_may_change_after_other_epochs(data: Path, tmp_path: Path) -> None:
    run_tiny_imagenet(data, tmp_path, "--progressive-at", "1")

    names = [run["name"] for run in journal(tmp_path)]
    assert names == [name for name in RUNS if name != "progressive resizing, epoch 2"]


def test_small_images_may_follow_the_pretrain_network(data: Path, tmp_path: Path) -> None:
    run_tiny_imagenet(data, tmp_path, "--both", "1,2")

    runs = {run["name"]: run for run in journal(tmp_path)}
    plain, both = runs["resized at epoch 1"], runs["resized at epoch 1, small images until 2"]
    assert both["records"][0] == plain["records"][0]
    assert [(r["phase"], r["size"]) for r in both["records"]] == [
        ("pre-train", 24), ("small images", 24), ("target", 32),
    ]  # fmt: skip
    assert both["change"]["epoch"] == 1
    assert "small images until 2 |" in (tmp_path / "tiny_imagenet.md").read_text()


def test_images_may_grow_twice(data: Path, tmp_path: Path) -> None:
    epochs = ("--epochs", "4", "--transitions")
    run_tiny_imagenet(data, tmp_path, *epochs, "--ramps", "1,2,28,3", "0,1,28,3")

    runs = {run["name"]: run for run in journal(tmp_path)}
    ramp = runs["resized at epoch 1, small images until 2, 28 px until 3"]
    assert [(r["phase"], r["size"]) for r in ramp["records"]] == [
        ("pre-train", 24), ("small images", 24), ("28 px", 28), ("target", 32),
    ]  # fmt: skip
    alone = runs["progressive resizing, epoch 1, 28 px until 3"]
    assert [(r["phase"], r["size"]) for r in alone["records"]] == [
        ("small images", 24), ("28 px", 28), ("28 px", 28), ("target", 32),
    ]  # fmt: skip
    assert ", 28 px " in (tmp_path / "tiny_imagenet.md").read_text()


@pytest.mark.parametrize(
    "option", [("--both", "2,1"), ("--ramps", "2,1,28,3"), ("--ramps", "1,2,3")]
)
def test_small_images_come_behind_the_pretrain_network(
    option: tuple[str, str], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        run_tiny_imagenet(data, tmp_path, *option)


def test_any_network_of_the_registry(data: Path, tmp_path: Path) -> None:
    run_tiny_imagenet(
        data, tmp_path, "--model", "torchvision/resnet18", "--precision", "bf16", "--epochs", "1",
        "--target-size", "64", "--pretrain-size", "46", "--transitions",
    )  # fmt: skip

    report = (tmp_path / "tiny_imagenet.md").read_text()
    assert "- network: torchvision/resnet18\n- precision: bf16\n" in report


def test_a_network_of_one_image_size(data: Path, tmp_path: Path) -> None:
    """A fully connected interface leaves no progressive resizing to compare with."""
    run_tiny_imagenet(
        data, tmp_path, "--model", "benchmarks/_small_vgg.py:small_vgg", "--target-size", "64",
        "--pretrain-size", "46", "--transitions", "1", "--progressive-at",
    )  # fmt: skip
    figures = json.loads((tmp_path / "tiny_imagenet.json").read_text())
    assert {run["name"] for run in figures["runs"]} == {
        RunNames.TARGET,
        RunNames.PRETRAIN,
        RunNames.resized(1),
    }
    assert set(figures["step_seconds"]) == {"target", "pre-train"}


def test_other_settings_are_not_mixed(data: Path, tmp_path: Path) -> None:
    run_tiny_imagenet(data, tmp_path / "a")

    with pytest.raises(FxscaleError, match="a run with other settings"):
        run_tiny_imagenet(data, tmp_path / "a", "--learning-rate", "0.5")


def test_damaged_journal(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny_imagenet.jsonl").write_text('{"settings": {}, "ru')

    with pytest.raises(FxscaleError, match=r"tiny_imagenet\.jsonl, line 1: not a finished run"):
        run_tiny_imagenet(data, tmp_path)


def test_transitions_must_lie_within_the_epochs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FxscaleError, match="transitions must lie between 1 and 2 epochs"):
        run_tiny_imagenet(data, tmp_path, "--transitions", "3")


def run(name: str, phases: str, seconds: float, accuracy: float) -> Run:
    names = {"t": "target", "p": "pre-train", "s": "small images"}
    records = tuple(
        EpochRecord(n + 1, names[p], 32, seconds, 0.1, 1.0, accuracy) for n, p in enumerate(phases)
    )
    change = Change(1, 1.0, 0.5, 0.4, 0.45) if len(set(phases)) > 1 else None
    return Run(name, 0, records, change)


def test_tables_add_up() -> None:
    runs = [
        run("target alone", "tt", 10.0, 0.6),
        run("pre-train alone", "pp", 3.0, 0.5),
        run("resized at epoch 1", "pt", 6.0, 0.61),
        run("progressive resizing, epoch 1", "st", 8.0, 0.59),
    ]
    steps = {"target": 0.5, "pre-train": 0.1, "small images": 0.25}

    text = report(runs, [r.name for r in runs], steps, 20, {"date": "today"})

    # 20 s at 10 s a step; 13 s = 6 + 6 + 1; at median steps 20 * (0.1 + 0.5) + 1 = 13 of 20 s.
    assert "| target alone | 60.0 % |  | 20.0 s |  | 20.0 s |  |" in text
    assert "| resized at epoch 1 | 61.0 % | +1.0 | 13.0 s | 35.0 % | 13.0 s | 35.0 % |" in text
    assert "| progressive resizing, epoch 1 | 59.0 % | -1.0 | 17.0 s | 15.0 % | 16.0 s |" in text
    assert "| resized at epoch 1 | 50.0 % | 40.0 % | 80.0 % | 45.0 % | 90.0 % |" in text
