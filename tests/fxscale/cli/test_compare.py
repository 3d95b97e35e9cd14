"""`fxscale compare`: its report against figures worked out from the runs' own JSON lines."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from fxscale.cli.app import app
from tests.fxscale.cli.small_images import write_images

runner = CliRunner()

NETWORKS = """
from torch import nn
from fxscale.training import SmallResNet

def pooled(num_classes):
    return SmallResNet(3, num_classes, widths=(16, 32))

def fixed(num_classes):
    return SmallResNet(3, num_classes, widths=(16, 32), interface=6)
"""
PICTURES = ["accuracy_epochs.png", "accuracy_time.png", "best_time.png"]
SEEDS = (3, 4)
KEYS = ["target", "pretrain", "progressive-1", "resized-1", "resized-2"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), train=20, test=8)


def command(images: Path, folder: Path, *more: str, model: str = "pooled") -> list[str]:
    (folder / "net.py").write_text(NETWORKS)
    return [
        *("compare", "--model", f"{folder / 'net.py'}:{model}", "--data", str(images)),
        *("--accelerator", "cpu", "--workers", "0", "--batch-size", "20", "--log-every", "1"),
        *("--target-size", "24", "--pretrain-size", "17", "--epochs", "3", "--milestones", "2"),
        *("--learning-rate", "0.02", "--batchnorm-batches", "1", "--seed", "3"),
        *("-o", str(folder / "out"), *more),
    ]


def events(run: Path, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def told(value: list[float], digits: int) -> str:
    return f"{mean(value):.{digits}f} ± {stdev(value):.{digits}f}"


def figures(out: Path, key: str) -> dict[str, list[float]]:
    """Of both seeds, from what the runs wrote while they trained."""
    found: dict[str, list[float]] = {"best": [], "epoch": [], "final": [], "seconds": []}
    for seed in SEEDS:
        run = out / "runs" / key / f"seed-{seed}"
        epochs = events(run, "epoch")
        last = [epoch for epoch in epochs if epoch["size"] == epochs[-1]["size"]]
        best = max(epoch["accuracy"] for epoch in last)
        found["best"].append(best)
        found["epoch"].append(next(e["epoch"] for e in last if e["accuracy"] == best))
        found["final"].append(epochs[-1]["accuracy"])
        parts = ("mapping_seconds", "batchnorm_seconds", "compile_seconds")
        changes = sum(c[part] for c in events(run, "transition") for part in parts)
        found["seconds"].append(sum(epoch["seconds"] for epoch in epochs) + changes)
    return found


def table(page: str) -> list[list[str]]:
    return [
        [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)]
        for row in re.findall(r'<tr class="\w+">(.*?)</tr>', page)
    ]


@pytest.mark.slow
def test_the_report_says_what_the_runs_did(images: Path, tmp_path: Path) -> None:
    options = command(images, tmp_path, "--resize-at", "1", "--seeds", "2")
    first = runner.invoke(app, options)
    assert first.exit_code == 0, first.output
    runs = tmp_path / "out" / "runs"
    histories = {path: path.read_bytes() for path in runs.rglob("history.json")}
    assert len(histories) == 4 * 2

    # One more transition: eight runs are kept, two are added.
    result = runner.invoke(app, [*options, "--resize-at", "2", "--resume"])
    assert result.exit_code == 0, result.output
    assert all(path.read_bytes() == content for path, content in histories.items())
    assert len(list(runs.rglob("history.json"))) == 5 * 2
    titles = re.findall(r"seed (\d) · ([\w ,-]*\w)", result.output)
    assert titles == [(str(s), "pre-train network, resized after epoch 2") for s in SEEDS]

    out = tmp_path / "out"
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert [variant["key"] for variant in content["variants"]] == KEYS
    assert content["seeds"] == list(SEEDS)
    target = figures(out, "target")
    for variant, cells in zip(content["variants"], table(page), strict=True):
        mine = figures(out, variant["key"])
        for name, key in (("best", "best"), ("final", "final"), ("best_epochs", "epoch")):
            assert variant[name] == mine[key]
        assert variant["seconds"] == pytest.approx(mine["seconds"])
        pairs = zip(mine["seconds"], target["seconds"], strict=True)
        saved = [1 - own / full for own, full in pairs]
        assert variant["saved"] == pytest.approx(saved)

        assert cells[1].startswith(told([100 * a for a in mine["best"]], 2) + " % (")
        assert cells[3] == told([100 * a for a in mine["final"]], 2) + " %"
        assert cells[5] == told(mine["seconds"], 1) + " s"
        if variant["key"] != "target":
            gained = [100 * (a - b) for a, b in zip(mine["best"], target["best"], strict=True)]
            assert cells[2].removeprefix("+") == told(gained, 2)
            assert cells[6] == told([100 * share for share in saved], 1) + " %"

    embedded = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    for name, picture in zip(PICTURES, embedded, strict=True):
        assert base64.b64decode(picture) == (out / name).read_bytes()
        with Image.open(out / name) as drawn:
            assert drawn.width >= 1600 < 3 * drawn.height  # for a slide


@pytest.mark.slow
def test_phases_are_those_of_the_variants(images: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, command(images, tmp_path, "--resize-at", "1", "-q"))
    assert result.exit_code == 0, result.output
    assert result.output == ""
    runs = tmp_path / "out" / "runs"
    sizes = {p.name: [e["size"] for e in events(p / "seed-3", "epoch")] for p in runs.iterdir()}
    assert sizes == {
        "target": [24, 24, 24],
        "pretrain": [17, 17, 17],
        "progressive-1": [17, 24, 24],
        "resized-1": [17, 24, 24],
    }
    # Progressive resizing starts as the target does: with the target's own weights.
    small = json.loads((runs / "resized-1" / "seed-3" / "history.json").read_text())
    whole = json.loads((runs / "progressive-1" / "seed-3" / "history.json").read_text())
    assert small["settings"]["progressive_sizes"] == []
    assert whole["settings"]["progressive_sizes"] == [17]
    resumed = command(images, tmp_path, "--resize-at", "1", "--resume", "--json")
    document = runner.invoke(app, resumed)
    assert document.exit_code == 0, document.output
    assert document.stdout == (tmp_path / "out" / "comparison.json").read_text(encoding="utf-8")
    assert "Report: " in document.stderr
    silent = runner.invoke(app, [*resumed, "-q"])
    assert (silent.exit_code, silent.stderr) == (0, "")
    assert [v["key"] for v in json.loads(silent.stdout)["variants"]] == [
        *("target", "pretrain", "progressive-1", "resized-1")
    ]
    again = runner.invoke(app, command(images, tmp_path, "--resize-at", "1"))
    assert again.exit_code == 1
    assert "holds a comparison already" in again.stderr


def test_a_head_of_fixed_size_is_resized_progressively(images: Path, tmp_path: Path) -> None:
    options = command(images, tmp_path, "--resize-at", "1", "--epochs", "2", model="fixed")
    result = runner.invoke(app, [*options, "--milestones", ""])
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "progressive resizing: SmallResNet takes images of one size, so that its " in words
    runs = tmp_path / "out" / "runs"
    assert {p.name for p in runs.iterdir()} == {"target", "pretrain", "progressive-1", "resized-1"}
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "Progressive resizing: SmallResNet takes images of one size" in page


def test_the_target_alone_may_train_for_other_epochs(images: Path, tmp_path: Path) -> None:
    own = ("--target-epochs", "2", "--target-epochs", "1:", "--progressive-at", "none")
    result = runner.invoke(app, command(images, tmp_path, "--resize-at", "1", *own))
    assert result.exit_code == 0, result.output
    runs = tmp_path / "out" / "runs"
    rates = {
        p.name: [e["learning_rate"] for e in events(p / "seed-3", "epoch")] for p in runs.iterdir()
    }
    assert rates == {
        "target-2": [0.02, pytest.approx(0.002)],  # its drop, after 2 of 3 epochs, comes after one
        "target-1": [0.02],
        "pretrain": [0.02, 0.02, pytest.approx(0.002)],
        "resized-1": [0.02, 0.02, pytest.approx(0.002)],
    }
    content = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    first, second = content["variants"][:2]
    assert [first["compared"], second["compared"]] == [False, True]
    assert second["saved"] == pytest.approx([1 - second["seconds"][0] / first["seconds"][0]])


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ([], 1, "leaves a network without an epoch"),  # auto, two epochs before the drop
        (["--resize-at", "soon"], 1, "does not say when to resize"),
        (["--resize-at", "3"], 1, "must lie between 1 and 2"),
        (["--resize-at", "never"], 1, "nothing is resized at 'never'"),
        (["--progressive-at", "1,2"], 1, "1 transitions need as many increasing epochs"),
        (["--pretrain-size", "none"], 1, "expected at least one pre-train size"),
        (["--resize-at", "1", "--pretrain-size", "2"], 1, "pre-train network alone: "),
        (["--resize-at", "1", "--model", "no_such"], 1, "there is no model 'no_such'"),
        (["--resize-at", "1", "--data", "absent"], 1, "absent: no such folder"),
        (["--seeds", "0"], 2, "--seeds"),
        (["--accelerator", "tpu"], 2, "Invalid value for '--accelerator'"),
        (["--milestones", "a"], 2, "write whole numbers"),
        (["--resize-at", "1", "--target-epochs", "4,5"], 2, "14 or 14:11,13"),
        (["--resize-at", "1", "--target-epochs", "1"], 2, "too many"),
        (["--resize-at", "1", "--target-epochs", "2:2"], 1, "there are only 2"),
        (["--progressive"], 2, "No such option"),
    ],
)
def test_mistakes(changed: list[str], code: int, words: str, images: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, command(images, tmp_path, *changed))
    assert result.exit_code == code
    assert words in result.output + result.stderr
    assert not (tmp_path / "out" / "runs").exists()  # nothing was trained
