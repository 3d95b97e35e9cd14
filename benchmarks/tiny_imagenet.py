"""Real images: what pre-training saves, and what it costs in accuracy, beside its peer.

    python -m benchmarks.tiny_imagenet --data tiny-imagenet-40.tar.gz

`--data` is a tarball or folder with `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`. For every seed, by
the same recipe and for equally many epochs:

1. the target network alone;
2. the pre-train network alone;
3. the pre-train network, with the transition after each of `--transitions` epochs;
4. progressive resizing: the unchanged target network on small images, then on large ones, switched
   after the same epochs (or `--progressive-at` others), optimizer and all carried on.

Each finished run is one line of `OUTPUT/tiny_imagenet.jsonl` and is not run again: stop the
benchmark and start it with the same settings to go on. Runs that begin alike share the beginning:
a run with a transition goes on from a checkpoint of the pre-train network's run of the same seed,
with the epoch times recorded there; likewise progressive resizing. Seeds decide order and
augmentation epoch by epoch, so the result is that of a run from the start.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxscale
from benchmarks._env import environment
from benchmarks._step import Settings, training_step
from benchmarks._table import write_results
from benchmarks._timing import alternating_medians
from benchmarks._tiny_imagenet_report import RunNames, report
from fxscale.errors import FxscaleError
from fxscale.files import written_whole
from fxscale.training import (
    Augmentation,
    EpochRecord,
    ImageSet,
    Observer,
    Recipe,
    Run,
    SmallResNet,
    Stage,
    Trainer,
    image_folder,
)

NAME = "tiny_imagenet"
AUGMENTATION = Augmentation(shift=1 / 16, mirror=True)
SMALL_PHASES = {"resized": "pre-train", "progressive": "small images"}
ROUNDS = 30


@dataclass(frozen=True)
class Experiment:
    """All that decides what a run measures; runs of different experiments are never mixed."""

    recipe: Recipe
    classes: int
    held_out: int
    target_size: int
    pretrain_size: int
    widths: tuple[int, ...]
    blocks: int
    transitions: tuple[int, ...]
    progressive: tuple[int, ...]

    def images(self, data: Path) -> ImageSet:
        return image_folder(
            data, classes=self.classes, size=self.target_size, held_out=self.held_out
        )

    def network(self, seed: int) -> SmallResNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SmallResNet(3, self.classes, widths=self.widths, blocks=self.blocks)

    def pretrain_network(self, target: nn.Module) -> nn.Module:
        return fxscale.downscale(target, self.pretrain_size, target_size=self.target_size)

    def to_dict(self) -> dict[str, Any]:
        # Which epochs are tried does not change what a run measures.
        entries = asdict(self)
        del entries["transitions"], entries["progressive"]
        return json.loads(json.dumps(entries))  # type: ignore[no-any-return]  # JSON is Any


class Journal:
    """Finished runs, one JSON line each, appended when a run is done."""

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self.path = path
        self.settings = experiment.to_dict()
        self.runs: dict[tuple[str, int], Run] = {}
        if not path.exists():
            return
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entry = json.loads(line)
                run = Run.from_dict(entry["run"])
            except (ValueError, KeyError, TypeError) as error:
                raise FxscaleError(
                    f"{path}, line {number}: not a finished run ({error}). Remove the line"
                ) from error
            if entry["settings"] != self.settings:
                raise FxscaleError(
                    f"{path}, line {number}: a run with other settings: {entry['settings']}, not "
                    f"{self.settings}. Use another --output"
                )
            self.runs[run.name, run.seed] = run

    def add(self, run: Run) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"settings": self.settings, "run": run.to_dict()}) + "\n")
        self.runs[run.name, run.seed] = run


class Benchmark:
    """Trains what the journal does not hold yet, one seed."""

    def __init__(
        self, images: ImageSet, experiment: Experiment, journal: Journal, checkpoints: Path
    ) -> None:
        self.images = images
        self.experiment = experiment
        self.journal = journal
        self.checkpoints = checkpoints

    def run_seed(self, seed: int) -> None:
        trainer = Trainer(
            self.images,
            self.experiment.recipe,
            seed=seed,
            augmentation=AUGMENTATION,
            observer=_Printer(),
        )
        epochs = self.experiment.recipe.epochs
        todo = self._todo(seed)
        for name, kind, epoch in todo:
            print(f"seed {seed}: {name}", flush=True)
            change = None
            if kind == "target":
                network = self.experiment.network(seed)
                stage = trainer.stage("target", network, self.experiment.target_size)
                records = trainer.fit(stage, range(epochs))
            else:
                stage, records = self.beginning(trainer, kind, epoch)
            if kind == "resized" and epoch < epochs:
                stage, change = trainer.upscale(
                    stage,
                    self.experiment.network(seed),
                    size=self.experiment.target_size,
                    epoch=epoch,
                )
            elif kind == "progressive":
                stage, change = trainer.enlarge(
                    stage, size=self.experiment.target_size, epoch=epoch
                )
            records = [*records, *trainer.fit(stage, range(len(records), epochs))]
            self.journal.add(Run(name, seed, tuple(records), change))

    def _todo(self, seed: int) -> list[tuple[str, str, int]]:
        """Name, kind and length of the beginning of each run that is not finished."""
        experiment = self.experiment
        runs = [
            (RunNames.TARGET, "target", 0),
            (RunNames.PRETRAIN, "resized", experiment.recipe.epochs),
            *((RunNames.resized(e), "resized", e) for e in experiment.transitions),
            *((RunNames.progressive(e), "progressive", e) for e in experiment.progressive),
        ]
        return [run for run in runs if (run[0], seed) not in self.journal.runs]

    def beginning(
        self, trainer: Trainer, kind: str, length: int
    ) -> tuple[Stage, list[EpochRecord]]:
        """A small-image stage after `length` epochs, from the furthest checkpoint before it."""
        target = self.experiment.network(trainer.seed)
        network = self.experiment.pretrain_network(target) if kind == "resized" else target
        stage = trainer.stage(SMALL_PHASES[kind], network, self.experiment.pretrain_size)
        records: list[EpochRecord] = []
        changes = {
            "resized": self.experiment.transitions,
            "progressive": self.experiment.progressive,
        }
        stops = [e for e in changes[kind] if e <= length]
        for stop in reversed(stops):
            path = self._checkpoint(kind, trainer.seed, stop)
            if path.exists():
                records = self._load(path, stage)
                break
        for stop in sorted({*stops, length}):
            if stop > len(records):
                records += trainer.fit(stage, range(len(records), stop))
                if stop in stops:
                    self._save(stage, records, kind, trainer.seed)
        return stage, records

    def _checkpoint(self, kind: str, seed: int, epoch: int) -> Path:
        return self.checkpoints / f"{kind}-seed{seed}-epoch{epoch}.pt"

    def _save(self, stage: Stage, records: Sequence[EpochRecord], kind: str, seed: int) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        content = {
            "settings": self.journal.settings,
            "network": stage.network.state_dict(),
            "optimizer": stage.optimizer.state_dict(),
            "records": [asdict(record) for record in records],
        }
        with written_whole(self._checkpoint(kind, seed, len(records))) as partial:
            torch.save(content, partial)

    def _load(self, path: Path, stage: Stage) -> list[EpochRecord]:
        content = torch.load(path, weights_only=True)
        if content["settings"] != self.journal.settings:
            raise FxscaleError(f"{path}: made with other settings. Use another --checkpoints")
        stage.network.load_state_dict(content["network"])
        stage.optimizer.load_state_dict(content["optimizer"])
        return [EpochRecord(**record) for record in content["records"]]


class _Printer(Observer):
    def epoch(self, record: EpochRecord) -> None:
        print(
            f"  epoch {record.epoch:3d}  {record.phase:12s} {record.size} px  "
            f"{record.seconds:6.1f} s  loss {record.train_loss:.3f}  "
            f"accuracy {100 * record.accuracy:.1f} %",
            flush=True,
        )


def step_times(experiment: Experiment, device: torch.device) -> dict[str, float]:
    """Median seconds of a training step of each phase, the networks taking turns."""
    settings = Settings(device, batch_size=experiment.recipe.batch_size)
    target = experiment.network(0).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares no memory_format here
    pretrain = experiment.pretrain_network(target)
    steps = {
        "target": training_step(target, experiment.target_size, settings),
        "small images": training_step(target, experiment.pretrain_size, settings),
        "pre-train": training_step(pretrain, experiment.pretrain_size, settings),
    }
    return alternating_medians(steps, repeats=ROUNDS, device=device)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    experiment = Experiment(
        Recipe(
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            milestones=tuple(options.milestones),
            weight_decay=5e-4,
            batch_size=options.batch_size,
        ),
        options.classes,
        options.held_out,
        options.target_size,
        options.pretrain_size,
        tuple(options.widths),
        options.blocks,
        tuple(sorted(options.transitions)),
        tuple(sorted(options.progressive_at or options.transitions)),
    )
    changes = [*experiment.transitions, *experiment.progressive]
    if not all(0 < e < experiment.recipe.epochs for e in changes):
        raise FxscaleError(
            f"transitions must lie between 1 and {experiment.recipe.epochs - 1} epochs; found "
            f"{changes}"
        )
    images = experiment.images(options.data)
    journal = Journal(options.output / f"{NAME}.jsonl", experiment)
    benchmark = Benchmark(images, experiment, journal, options.checkpoints)
    seeds = range(options.seeds)
    for seed in seeds:
        benchmark.run_seed(seed)

    device = Trainer(images, experiment.recipe, seed=0).fabric.device
    medians = step_times(experiment, device)
    steps = len(images.train_labels) // experiment.recipe.batch_size
    facts = experiment_facts(experiment, images, device) | {"seeds": ", ".join(map(str, seeds))}
    runs = [run for (_, seed), run in journal.runs.items() if seed in seeds]
    text = report(runs, experiment.transitions, experiment.progressive, medians, steps, facts)
    figures = {
        "settings": facts,
        "experiment": experiment.to_dict(),
        "step_seconds": medians,
        "steps_per_epoch": steps,
        "runs": [run.to_dict() for run in runs],
    }
    write_results(options.output, NAME, text, figures)
    print(f"\n{text}")


def experiment_facts(
    experiment: Experiment, images: ImageSet, device: torch.device
) -> dict[str, str]:
    """What was trained, on what, and where, as text."""
    return environment(device) | {
        "images": f"{images.name}, {len(images.train_labels)} to train on, "
        f"{len(images.test_labels)} to test on",
        "recipe": ", ".join(f"{k} {v}" for k, v in asdict(experiment.recipe).items()),
        "network": f"residual, widths {experiment.widths}, {experiment.blocks} basic blocks each",
        "sizes": f"target {experiment.target_size} px, pre-train {experiment.pretrain_size} px",
    }


def experiment_parser(description: str | None) -> argparse.ArgumentParser:
    """Where the images, the results and the shared beginnings lie."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="tarball or folder")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("data/tiny_imagenet"),
        help="folder for the shared beginnings; may be deleted afterwards",
    )
    parser.add_argument("--threads", type=int, help="CPU threads")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = experiment_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--milestones", type=int, nargs="+", default=[7, 10])
    parser.add_argument("--transitions", type=int, nargs="+", default=[5, 6, 9])
    parser.add_argument(
        "--progressive-at",
        type=int,
        nargs="+",
        help="epochs before the change of size in progressive resizing (default: --transitions)",
    )
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--held-out",
        type=int,
        default=0,
        help="training images of each class that test instead (default 0)",
    )
    parser.add_argument("--target-size", type=int, default=64)
    parser.add_argument("--pretrain-size", type=int, default=46)
    parser.add_argument("--widths", type=int, nargs="+", default=[24, 48, 96])
    parser.add_argument("--blocks", type=int, default=2, help="basic blocks of each width")
    return parser


if __name__ == "__main__":
    main()
