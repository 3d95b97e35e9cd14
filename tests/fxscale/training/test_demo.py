"""The demo, on fewer images and a smaller network than users see."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fxscale.errors import FxscaleError
from fxscale.training import ImageSet, Run, SmallResNet, demo, noisy_digits
from fxscale.training.demo import demo_recipe, run_demo, transition_epoch


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def digits(size: int) -> ImageSet:
        return noisy_digits(size, train=60, test=30)

    def network(seed: int) -> SmallResNet:
        return SmallResNet(1, 10, widths=(16, 16, 16), interface=7)

    monkeypatch.setattr(demo, "noisy_digits", digits)
    monkeypatch.setattr(demo, "target_network", network)


@given(st.integers(4, 200))
def test_transition_comes_two_epochs_before_the_first_drop(epochs: int) -> None:
    recipe = demo_recipe(epochs)
    switch = transition_epoch(recipe)

    assert 1 <= switch < epochs
    assert recipe.rate(0) == recipe.rate(switch + 1) > recipe.rate(switch + 2)


def test_demo_writes_what_it_measured(small: None, tmp_path: Path) -> None:
    text = io.StringIO()

    result = run_demo(
        seeds=2, epochs=4, output=tmp_path / "out", seed=5, console=Console(file=text, width=100)
    )

    assert result.picture.read_bytes().startswith(b"\x89PNG")
    content = json.loads(result.figures.read_text())
    runs = [Run.from_dict(entry) for entry in content["runs"]]
    assert tuple(runs) == (*result.target, *result.scaled)
    assert [run.seed for run in runs] == [5, 6, 5, 6]
    assert content["transition_after_epoch"] == 1
    assert (content["gpu"] is not None) == torch.cuda.is_available()
    for run in result.scaled:
        assert [record.phase for record in run.records] == ["pre-train", *["target"] * 3]
        assert [record.size for record in run.records] == [40, 56, 56, 56]
        assert run.change is not None
    for run in result.target:
        assert {record.size for record in run.records} == {56}
    printed = text.getvalue()
    for line in (
        "speed-up of an epoch",
        "right after the transition",
        "at the end",
        "time saved",
        "demo.png",
    ):
        assert line in printed
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["demo.json", "demo.png"]


@pytest.mark.parametrize("epochs", [3, 0, -1])
def test_too_few_epochs(tmp_path: Path, epochs: int) -> None:
    with pytest.raises(FxscaleError, match=f"the demo needs at least 4 epochs, .* found {epochs}"):
        run_demo(epochs=epochs, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_seeds(tmp_path: Path) -> None:
    with pytest.raises(FxscaleError, match="the demo needs at least 1 seed; found 0"):
        run_demo(seeds=0, output=tmp_path / "out")


def test_output_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("taken")

    with pytest.raises(FxscaleError, match=r"cannot write to .*out"):
        run_demo(output=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "taken"
