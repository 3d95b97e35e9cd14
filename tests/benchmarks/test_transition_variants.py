"""Variants go on from the shared beginnings, differ in one thing each, and can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxscale
from benchmarks import _tiny_imagenet_training, transition_variants
from benchmarks._recipes import FactoredRecipe, RaisedRecipe
from benchmarks._tiny_imagenet_runs import Experiment
from benchmarks.transition_variants import (
    half_kept,
    size_between,
    with_norms,
)
from fxscale.errors import FxscaleError
from fxscale.training import Recipe, SmallResNet, Stage
from tests.benchmarks.tiny_images import run_tiny_imagenet, write_images


def run_variants(data: Path, output: Path, *more: str) -> None:
    transition_variants.main(
        ["--data", str(data), "--journal", str(output / "tiny_imagenet.jsonl"),
         "--checkpoints", str(output / "kept"), "--output", str(output), "--transition", "1",
         *more]
    )  # fmt: skip


def runs(journal: Path) -> dict[str, dict[str, Any]]:
    of_lines = [json.loads(line)["run"] for line in journal.read_text().splitlines()]
    return {run["name"]: run for run in of_lines}


def stages(
    pretrain: nn.Module, target: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Stage, Stage]:
    """Both networks' stages, at 24 and 32 px, with one optimizer."""
    small = Stage("pre-train", 24, pretrain, optimizer, pretrain, optimizer)
    return small, Stage("target", 32, target, optimizer, target, optimizer)


def column(run: dict[str, Any], name: str) -> list[Any]:
    return [record[name] for record in run["records"]]


def test_every_variant_differs_from_the_plain_transition_as_it_says(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = runs(tmp_path / "tiny_imagenet.jsonl")["resized at epoch 1"]
    run_variants(data, tmp_path)
    found = runs(tmp_path / "transition_variants.jsonl")
    assert list(found) == [
        "momentum reset@1", "warm-up@1", "raised rate@1", "lowered rate@1", "larger norms@1",
        "least squares@1", "ramp@1", "progressive resizing next@1", "three stages@1",
    ]  # fmt: skip
    assert "raised rate behind the drop: the same as plain" in capsys.readouterr().out

    for run in found.values():
        # What comes before the transition is the plain run's, times and all.
        assert run["records"][0] == plain["records"][0]
        assert column(run, "train_loss")[1:] != column(plain, "train_loss")[1:]
    assert column(found["warm-up@1"], "learning_rate") == pytest.approx([0.02, 0.004, 0.002])
    assert column(found["raised rate@1"], "learning_rate") == pytest.approx([0.02, 0.04, 0.002])
    assert column(found["lowered rate@1"], "learning_rate") == pytest.approx([0.02, 0.006, 0.002])
    assert column(found["momentum reset@1"], "learning_rate") == column(plain, "learning_rate")
    for name in ("ramp@1", "three stages@1"):
        assert column(found[name], "size") == [24, 28, 32]
        assert column(found[name], "phase") == ["pre-train", "in between", "target"]
    assert column(found["progressive resizing next@1"], "size") == [24, 24, 32]
    assert column(found["ramp@1"], "train_loss") != column(found["three stages@1"], "train_loss")
    assert "| momentum reset | 1 |" in (tmp_path / "transition_variants.md").read_text()

    # Finished: nothing is trained again.
    capsys.readouterr()
    run_variants(data, tmp_path)
    assert "seed 0" not in capsys.readouterr().out
    assert runs(tmp_path / "transition_variants.jsonl") == found


def test_behind_the_drop_the_rate_goes_back_for_some_epochs(data: Path, tmp_path: Path) -> None:
    late = tmp_path / "late"
    run_tiny_imagenet(data, late, "--epochs", "7", "--milestones", "1", "6", "--transitions", "2")

    run_variants(data, late, "--transition", "2", "--variants", "raised rate behind the drop")

    (run,) = runs(late / "transition_variants.jsonl").values()
    assert run["name"] == "raised rate behind the drop@2"
    run_variants(data, late, "--transition", "2", "--variants", "ramp", "--between", "2")
    ramp = runs(late / "transition_variants.jsonl")["ramp for 2 epochs@2"]
    assert column(ramp, "size") == [24, 24, 28, 28, 32, 32, 32]
    high, low = 0.02, 0.002
    rates = [high, low, high, high, high, low, low / 10]
    assert column(run, "learning_rate") == pytest.approx(rates)


def test_every_other_block_of_the_network_in_between_is_the_targets() -> None:
    recipe = Recipe(3, 0.1, ())
    experiment = Experiment(recipe, 10, 0, 64, 46, (8, 16, 32), 2, ())
    assert size_between(experiment) == 54

    between = half_kept(experiment, experiment.network(0))

    kernels = {
        name: module.kernel_size[0]
        for name, module in between.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
    }
    blocks = {f"layers.{i}.conv{j}": 2 + (i + 1) % 2 for i in range(6) for j in (1, 2)}
    assert kernels == {"stem": 5} | blocks
    assert not between.plan.pad_operators


def test_norms_go_back_to_the_pretrain_networks() -> None:
    torch.manual_seed(0)
    target = SmallResNet(3, 2, widths=(16, 32), blocks=1)
    pretrain = fxscale.downscale(target, 24, target_size=32)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1, momentum=0.9)
    fxscale.transition(pretrain, target)
    target(torch.randn(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    kernels = {k: p for k, p in target.named_parameters() if p.dim() == 4}
    steps = {k: optimizer.state[p]["momentum_buffer"] / p for k, p in kernels.items()}

    with_norms(*stages(pretrain, target, optimizer), 1.5)

    before = dict(pretrain.named_parameters())
    for name, kernel in kernels.items():
        if kernel.shape[-1] > 1:
            torch.testing.assert_close(kernel.norm(), 1.5 * before[name].norm())
        again = optimizer.state[kernel]["momentum_buffer"] / kernel
        torch.testing.assert_close(again, steps[name])


def test_a_variant_that_changes_nothing_is_the_plain_transition(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transition_variants, "RAISED", 1.0)
    run_variants(data, tmp_path, "--variants", "raised rate")
    report = (tmp_path / "transition_variants.md").read_text()
    assert [line for line in report.splitlines() if "| +0.0 |" in line]


def test_the_factor_holds_for_its_epochs_alone() -> None:
    recipe = FactoredRecipe(6, 1.0, (4,), factor=2.0, first=1, last=3)
    plain = Recipe(6, 1.0, (4,))
    ratios = [recipe.rate(epoch) / plain.rate(epoch) for epoch in range(6)]
    assert ratios == [1, 2, 2, 1, 1, 1]
    raised = RaisedRecipe(6, 1.0, (2, 4), first=3, last=5)
    assert [raised.rate(epoch) for epoch in range(6)] == pytest.approx([1, 1, 0.1, 1, 1, 0.01])


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(FxscaleError, match=r"Run benchmarks\.tiny_imagenet first"):
        run_variants(tmp_path, tmp_path)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_tiny_imagenet_training, "ROUNDS", 1)
    images = write_images(tmp_path)
    run_tiny_imagenet(images, tmp_path)
    return images
