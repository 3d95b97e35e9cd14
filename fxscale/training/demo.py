"""`fxscale demo`: a small residual network learns digits, with and without pre-training.

Two runs of equally many epochs by the same recipe: the target network alone, and the pre-train
network first, with the transition two epochs before the first drop of the learning rate
(section 5.1 of the paper). Both start from the same seed and see the same images in the same order.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

import fxscale
from fxscale.errors import FxscaleError
from fxscale.files import written_whole
from fxscale.training.data import Augmentation, ImageSet, noisy_digits
from fxscale.training.devices import gpu_name
from fxscale.training.extra import require
from fxscale.training.loop import Change, EpochRecord, Observer, Trainer, single_device
from fxscale.training.networks import SmallResNet
from fxscale.training.recipe import Recipe
from fxscale.training.report import comparison_table
from fxscale.training.runs import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TARGET_SIZE = 56
PRETRAIN_SIZE = 40  # 7/5, the ratio of the 7×7 stem and its 5×5 pre-train kernel, as 224 and 160
EPOCHS = 12
FEWEST_EPOCHS = 4
TARGET_RUN = "target alone"
SCALED_RUN = "pre-train network first"


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured: one run of each kind per seed, and where it was written."""

    target: tuple[Run, ...]
    scaled: tuple[Run, ...]
    picture: Path
    figures: Path


def demo_recipe(epochs: int) -> Recipe:
    """SGD; the learning rate drops after two thirds and after five sixths of the epochs.

    **Raises:** `FxscaleError` for fewer epochs than a transition two epochs before a drop needs.
    """
    if epochs < FEWEST_EPOCHS:
        raise FxscaleError(
            f"the demo needs at least {FEWEST_EPOCHS} epochs, one for the pre-train network and "
            f"two for the target before the learning rate drops; found {epochs}"
        )
    first = max(3, round(epochs * 2 / 3))
    second = max(first + 1, round(epochs * 5 / 6))
    return Recipe(epochs=epochs, learning_rate=0.02, milestones=(first, second), batch_size=50)


def transition_epoch(recipe: Recipe) -> int:
    """Epochs to train the pre-train network: up to two before the first drop (section 5.1)."""
    return recipe.milestones[0] - 2


def target_network(seed: int) -> SmallResNet:
    """The target: a 7×7 stem, three basic blocks, an interface over a 128 × 7 × 7 map."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallResNet(1, 10, widths=(32, 64, 128), interface=TARGET_SIZE // 8)


def run_demo(
    *,
    seeds: int = 1,
    epochs: int = EPOCHS,
    output: str | Path = "fxscale-demo",
    seed: int = 0,
    console: Console | None = None,
) -> DemoResult:
    """Trains, prints a table and writes `demo.png` and `demo.json` into `output`.

    **Arguments:**

    - `seeds`: how many times, with seeds `seed`, `seed + 1`, ...; several give mean and spread.
    - `epochs`: of each run; at least 4.
    - `output`: a folder, made if it is not there.
    - `console`: where tables and progress bars go; standard output by default.

    **Raises:** `FxscaleError` for too few epochs or seeds, or an `output` that is no folder.
    """
    require("lightning_fabric", "matplotlib", "sklearn")
    recipe = demo_recipe(epochs)
    if seeds < 1:
        raise FxscaleError(f"the demo needs at least 1 seed; found {seeds}")
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FxscaleError(f"cannot write to {folder}: {error.strerror}. Give a folder") from error
    console = console or Console()

    fabric = single_device()
    images = noisy_digits(TARGET_SIZE)
    console.print(
        f"[bold]{images.name}[/bold]: {len(images.train_labels)} to train on, "
        f"{len(images.test_labels)} to test on, {TARGET_SIZE} × {TARGET_SIZE} pixels. {epochs} "
        f"epochs; the transition after {transition_epoch(recipe)}, two before the learning rate "
        f"drops."
    )
    target, scaled = [], []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        for number in range(seed, seed + seeds):
            # The runs take turns, epoch by epoch: other load on the machine slows both alike.
            turns = zip(
                _target_alone(images, recipe, number, progress, fabric),
                _pretrain_first(images, recipe, number, progress, fabric),
                strict=True,
            )
            *_, (alone, first) = turns
            target.append(alone)
            scaled.append(first)

    picture, figures = folder / "demo.png", folder / "demo.json"
    result = DemoResult(tuple(target), tuple(scaled), picture, figures)
    _write(result, recipe, images, gpu_name(fabric))
    console.print(comparison_table(result.target, result.scaled))
    console.print(f"Picture: {picture}\nFigures behind it: {figures}")
    return result


def _target_alone(
    images: ImageSet, recipe: Recipe, seed: int, progress: Progress, fabric: Fabric
) -> Iterator[Run]:
    """The run so far, after every epoch."""
    trainer = _trainer(images, recipe, seed, progress, TARGET_RUN, fabric)
    stage = trainer.stage("target", target_network(seed), TARGET_SIZE)
    records: list[EpochRecord] = []
    for epoch in range(recipe.epochs):
        records += trainer.fit(stage, range(epoch, epoch + 1))
        yield Run(TARGET_RUN, seed, tuple(records))


def _pretrain_first(
    images: ImageSet, recipe: Recipe, seed: int, progress: Progress, fabric: Fabric
) -> Iterator[Run]:
    """The run so far, after every epoch."""
    trainer = _trainer(images, recipe, seed, progress, SCALED_RUN, fabric)
    target = target_network(seed)
    pretrain = fxscale.downscale(target, PRETRAIN_SIZE, target_size=TARGET_SIZE)
    stage = trainer.stage("pre-train", pretrain, PRETRAIN_SIZE)
    records: list[EpochRecord] = []
    change: Change | None = None
    for epoch in range(recipe.epochs):
        if epoch == transition_epoch(recipe):
            stage, change = trainer.upscale(stage, target, size=TARGET_SIZE, epoch=epoch)
        records += trainer.fit(stage, range(epoch, epoch + 1))
        yield Run(SCALED_RUN, seed, tuple(records), change)


class _Bar(Observer):
    """One progress bar: a run, step by step, with the accuracy of its last epoch."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress = progress
        self.title = title
        self.task: TaskID = progress.add_task(title, total=None)

    def step(self) -> None:
        self.progress.advance(self.task)

    def epoch(self, record: EpochRecord) -> None:
        self.progress.update(
            self.task,
            description=f"{self.title} · epoch {record.epoch}, {record.size} px, "
            f"{100 * record.accuracy:.1f} %",
        )


def _trainer(
    images: ImageSet, recipe: Recipe, seed: int, progress: Progress, title: str, fabric: Fabric
) -> Trainer:
    bar = _Bar(progress, f"seed {seed} · {title}")
    trainer = Trainer(
        images,
        recipe,
        seed=seed,
        augmentation=Augmentation(shift=1 / 16),
        fabric=fabric,
        observer=bar,
    )
    progress.update(bar.task, total=recipe.epochs * trainer.steps_per_epoch)
    return trainer


def _write(result: DemoResult, recipe: Recipe, images: ImageSet, gpu: str | None) -> None:
    from fxscale.training.plots import plot_comparison

    plot_comparison(
        result.target,
        result.scaled,
        result.picture,
        title=f"A small residual network on {images.name}, {TARGET_SIZE} px, "
        f"pre-trained at {PRETRAIN_SIZE} px",
    )
    content: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "images": {
            "name": images.name,
            "train": len(images.train_labels),
            "test": len(images.test_labels),
            "target_size": TARGET_SIZE,
            "pretrain_size": PRETRAIN_SIZE,
        },
        "recipe": asdict(recipe),
        "transition_after_epoch": transition_epoch(recipe),
        "runs": [run.to_dict() for run in (*result.target, *result.scaled)],
    }
    with written_whole(result.figures) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
