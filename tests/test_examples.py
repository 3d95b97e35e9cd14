"""The examples run, and what they say survives a transition does."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim import SGD

import fxscale

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    network, losses = example("own_loop").train(epochs=4, resize_after=2, images=200)
    assert network.stem.weight.shape[-1] == 7
    assert losses[-1] < losses[0]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[0] for line in lines][1:3] == ["epoch 2: 28 px", "epoch 3: 40 px"]
    for epoch, line in enumerate(lines, start=1):
        rate = 0.05 * (1 + math.cos(math.pi * epoch / 4)) / 2  # the cosine, not begun anew
        assert float(line.rpartition(" ")[2]) == pytest.approx(rate, abs=1e-4)


# timm.data leaves the files that it reads to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    for label in range(2):
        folder = tmp_path / "train" / str(label)
        folder.mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (64, 64), (200 * label, 10 * number, 0)).save(folder / f"{number}.png")
    network, average, optimizer = example("timm_train").main(
        [
            *(str(tmp_path), "--model", "test_resnet", "--num-classes", "2", "--img-size", "96"),
            *("--pretrain-size", "64", "--resize-epoch", "2", "--epochs", "4"),
            *("--batch-size", "8", "--lr", "0.01", "--ema-decay", "0.5"),
        ]
    )
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert {key: value.shape for key, value in average.module.state_dict().items()} == shapes
    assert not hasattr(network, "plan")
    parameters = {p for group in optimizer.param_groups for p in group["params"]}
    assert parameters == set(network.parameters())
    # Of a cosine over 4 epochs that was not begun anew.
    assert optimizer.param_groups[0]["lr"] < 0.001


def test_a_grad_scaler_goes_on_with_the_new_optimizer() -> None:
    """Its scale is kept; an overflow after the transition skips the step and lowers it."""
    target = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
    small = fxscale.downscale(target, 8, target_size=12)
    optimizer = SGD(small.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    scaler.scale(small(torch.randn(2, 1, 8, 8)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 16.0
    new = fxscale.transition(small, target, optimizer=optimizer).optimizer
    assert new is not None
    before = [p.detach().clone() for p in target.parameters()]
    scaler.scale(target(torch.full((2, 1, 12, 12), torch.inf)).sum()).backward()
    scaler.step(new)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters(), strict=True))
    assert scaler.get_scale() == 8.0
    new.zero_grad()
    scaler.scale(target(torch.randn(2, 1, 12, 12)).sum()).backward()
    scaler.step(new)
    scaler.update()
    assert not torch.equal(before[0], target[0].weight)


# Lightning's: a deprecation in its own code, and advice about loaders that a small run ignores.
@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:Checkpoint directory",
)
@pytest.mark.parametrize("stopped", [1, 3])
def test_lightning(tmp_path: Path, stopped: int, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")

    class Stop(callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = trainer.current_epoch + 1 == stopped

    train = example("lightning_train").train
    first = train(tmp_path, epochs=4, resize_after=2, images=200, more_callbacks=[Stop()])
    assert hasattr(first.network, "plan") == (stopped < 2)
    module = train(tmp_path, epochs=4, resize_after=2, images=200)
    assert not hasattr(module.network, "plan")
    assert module.network.stem.weight.shape[-1] == 7
    assert module.trainer.current_epoch == 4
    assert module.lr_schedulers().get_last_lr()[0] == pytest.approx(0, abs=1e-9)
    printed = capsys.readouterr().out.splitlines()
    assert [line.startswith("{'accuracy': ") for line in printed] == [True, True]
