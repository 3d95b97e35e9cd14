"""Variants go on from the shared beginnings, differ in one thing each, and can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tiny_imagenet, transition_variants
from benchmarks.transition_variants import FactoredRecipe
from fxscale.errors import FxscaleError
from fxscale.training import Recipe
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


def test_every_variant_differs_from_the_plain_transition_as_it_says(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = runs(tmp_path / "tiny_imagenet.jsonl")["resized at epoch 1"]
    run_variants(data, tmp_path)
    found = runs(tmp_path / "transition_variants.jsonl")
    assert list(found) == ["momentum reset@1", "warm-up@1", "raised rate@1", "ramp@1"]

    def column(run: dict[str, Any], name: str) -> list[Any]:
        return [record[name] for record in run["records"]]

    for run in found.values():
        # What comes before the transition is the plain run's, times and all.
        assert run["records"][0] == plain["records"][0]
        assert column(run, "train_loss")[1:] != column(plain, "train_loss")[1:]
    assert column(found["warm-up@1"], "learning_rate") == pytest.approx([0.02, 0.004, 0.002])
    assert column(found["raised rate@1"], "learning_rate") == pytest.approx([0.02, 0.04, 0.002])
    assert column(found["momentum reset@1"], "learning_rate") == column(plain, "learning_rate")
    assert column(found["ramp@1"], "size") == [24, 28, 28]
    assert "| momentum reset | 1 |" in (tmp_path / "transition_variants.md").read_text()

    # Finished: nothing is trained again.
    capsys.readouterr()
    run_variants(data, tmp_path)
    assert "seed 0" not in capsys.readouterr().out
    assert runs(tmp_path / "transition_variants.jsonl") == found


def test_a_variant_that_changes_nothing_is_the_plain_transition(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transition_variants, "RAISED", 1.0)
    run_variants(data, tmp_path, "--variants", "raised rate")
    report = (tmp_path / "transition_variants.md").read_text()
    assert [line for line in report.splitlines() if line.endswith("| +0.0 |")]


def test_the_factor_holds_for_its_epochs_alone() -> None:
    recipe = FactoredRecipe(6, 1.0, (4,), factor=2.0, first=1, last=3)
    plain = Recipe(6, 1.0, (4,))
    ratios = [recipe.rate(epoch) / plain.rate(epoch) for epoch in range(6)]
    assert ratios == [1, 2, 2, 1, 1, 1]


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(FxscaleError, match=r"Run benchmarks\.tiny_imagenet first"):
        run_variants(tmp_path, tmp_path)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiny_imagenet, "ROUNDS", 1)
    images = write_images(tmp_path)
    run_tiny_imagenet(images, tmp_path)
    return images
