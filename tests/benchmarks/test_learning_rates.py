"""The benchmark of learning rates in miniature, and what it does to the norms of kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import learning_rates
from benchmarks._norms import NormsDivided, NormsKept
from benchmarks._tiny_imagenet_report import RunNames
from fxscale import downscale
from fxscale.errors import FxscaleError
from fxscale.training import EpochRecord, ImageSet, Recipe, Run, SmallResNet, Trainer
from tests.benchmarks.tiny_images import write_images

MINIATURE = (
    "--seeds", "1", "--epochs", "4", "--milestones", "3", "--batch-size", "4", "--classes", "2",
    "--target-size", "32", "--pretrain-size", "20", "--widths", "8", "16", "--blocks", "1",
    "--ramps", "1,2,26,3", "--norms", "--threads", "1",
)  # fmt: skip
RECIPE = Recipe(epochs=2, learning_rate=0.1, milestones=(), batch_size=4)


def run(folder: Path, *more: str) -> Path:
    output = folder / "output"
    data = folder / "images" if (folder / "images").exists() else write_images(folder)
    paths = ("--data", str(data), "--output", str(output), "--checkpoints", str(folder / "kept"))
    learning_rates.main([*paths, *MINIATURE, *more])
    return output


def test_every_contender_at_every_rate(tmp_path: Path) -> None:
    output = run(tmp_path, "--rates", "0.05", "0.1")
    figures = json.loads((output / "learning_rates.json").read_text())
    made = [(entry["contender"], entry["learning_rate"]) for entry in figures["runs"]]
    names = list(dict.fromkeys(name for name, _ in made))
    assert made == [(name, rate) for name in names for rate in (0.05, 0.1)]
    assert len(names) == 5
    phases = {
        entry["contender"]: [record["phase"] for record in entry["run"]["records"]]
        for entry in figures["runs"]
    }
    assert phases[names[3]] == phases[names[1]] == ["pre-train", "small images", "26 px", "target"]
    assert phases[names[4]] == phases[names[2]] == ["small images"] * 2 + ["26 px", "target"]
    rates = {entry["run"]["records"][0]["learning_rate"] for entry in figures["runs"]}
    assert rates == {0.05, 0.1}
    again = (output / "0.05" / "norms_kept.jsonl").read_text()
    run(tmp_path, "--rates", "0.05")  # nothing is trained again
    assert (output / "0.05" / "norms_kept.jsonl").read_text() == again


def test_a_ramp_without_small_kernels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FxscaleError, match="give A >= 1"):
        run(tmp_path, "--ramps", "0,2,26,3")


def test_each_is_compared_at_its_best_rate() -> None:
    def runs(*accuracies: float, size: int) -> list[Run]:
        phase = "target" if size == 32 else "small images"
        return [
            Run("", seed, (EpochRecord(1, phase, size, 1.0, 0.1, 0.0, accuracy),))
            for seed, accuracy in enumerate(accuracies)
        ]

    table = learning_rates.report(
        {
            RunNames.TARGET: {0.1: runs(0.5, 0.6, size=32), 0.2: runs(0.3, 0.4, size=32)},
            "peer": {0.1: runs(0.2, 0.2, size=16), 0.2: runs(0.5, 0.5, size=16)},
        },
        {"target": 4.0, "small images": 1.0},
        10,
        {},
    )
    assert "| run | rate 0.1 | rate 0.2 | to target, points | saved |" in table
    assert "| target alone | **55.0 ± 7.1 %** | 35.0 ± 7.1 % |  |  |" in table
    assert "| peer | 20.0 ± 0.0 % | **50.0 ± 0.0 %** | -5.0 | 75.0 % |" in table


def trainer(kind: Any = Trainer, **options: Any) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 32, 32, generator=generator)
    labels = torch.tensor([0, 1] * 4)
    made: Trainer = kind(ImageSet("", 2, images, labels, images, labels), RECIPE, seed=0, **options)
    return made


def network() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(3, 2, widths=(8,), blocks=1)


def test_norms_kept_changes_no_function_but_the_kernels_norms() -> None:
    kept = {}
    for kind in (Trainer, NormsKept):
        by = trainer(kind)
        stage = by.stage("pre-train", downscale(network(), 20, target_size=32), 20)
        by.fit(stage, range(1))
        before = {name: float(w.detach().norm()) for name, w in stage.network.named_parameters()}
        larger, _ = by.upscale(stage, network(), size=32, epoch=1)
        kept[kind] = larger
    plain, scaled = kept[Trainer].network.eval(), kept[NormsKept].network.eval()
    shapes = {name: w.shape for name, w in stage.network.named_parameters()}
    enlarged = [name for name, w in scaled.named_parameters() if w.shape != shapes[name]]
    assert enlarged
    for name, weight in scaled.named_parameters():
        ours, theirs = (
            float(weight.detach().norm()),
            float(plain.get_parameter(name).detach().norm()),
        )
        assert ours == pytest.approx(before[name] if name in enlarged else theirs, rel=1e-5)
        momentum = kept[NormsKept].optimizer.state[weight]["momentum_buffer"].norm()
        other = kept[Trainer].optimizer.state[plain.get_parameter(name)]["momentum_buffer"].norm()
        assert float(momentum * theirs) == pytest.approx(float(other * ours), rel=1e-4)
    images = torch.randn(4, 3, 32, 32)
    for each in (plain, scaled):  # by the statistics of the batch
        each.train()
    torch.testing.assert_close(plain(images), scaled(images), rtol=1e-3, atol=1e-3)


def test_norms_are_divided_once_after_the_epoch() -> None:
    name = next(name for name, w in network().named_parameters() if w.dim() == 4)
    weights = {}
    for kind, options in (
        (Trainer, {}),
        (NormsDivided, {"names": [name], "divisor": 2.0, "after": 1}),
    ):
        by = trainer(kind, **options)
        stage = by.stage("small images", network(), 32)
        records = by.fit(stage, range(1))
        assert [record.epoch for record in records] == [1]
        weights[kind] = stage.network.get_parameter(name).detach().clone()
        assert [record.epoch for record in by.fit(stage, range(1, 2))] == [2]
    torch.testing.assert_close(weights[NormsDivided], weights[Trainer] / 2)
    whole = trainer(NormsDivided, names=[name], divisor=2.0, after=1)
    records = whole.fit(whole.stage("small images", network(), 32), range(2))
    assert [record.epoch for record in records] == [1, 2]
