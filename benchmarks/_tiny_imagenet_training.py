"""How `tiny_imagenet` trains: the runs of an experiment, with shared beginnings, and step times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks._step import DTYPES, Settings, placed, training_step
from benchmarks._timing import alternating_medians
from benchmarks._tiny_imagenet_runs import Course, Experiment, Journal
from fxscale.errors import FxscaleError
from fxscale.files import written_whole
from fxscale.pretrain_network import PretrainNetwork
from fxscale.training import (
    Augmentation,
    Change,
    EpochRecord,
    ImageSet,
    Observer,
    Run,
    Stage,
    Trainer,
)
from fxscale.training.loop import single_device

AUGMENTATION = Augmentation(shift=1 / 16, mirror=True)
SMALL_PHASES = {"resized": "pre-train", "progressive": "small images"}
ROUNDS = 30


class Benchmark:
    """Trains what the journal does not hold yet."""

    def __init__(
        self,
        images: ImageSet,
        experiment: Experiment,
        journal: Journal,
        checkpoints: Path,
        trainer: Callable[..., Trainer] = Trainer,
    ) -> None:
        self.fabric = single_device(experiment.precision)
        self.images = images.to(self.fabric.device)
        self.experiment = experiment
        self.journal = journal
        self.checkpoints = checkpoints
        self.trainer = trainer

    def run(self, course: Course, seed: int) -> None:
        if (course.name, seed) in self.journal.runs:
            return
        print(f"seed {seed}: {course.name}", flush=True)
        experiment = self.experiment
        epochs = experiment.recipe.epochs
        enlargements = course.enlargements(experiment.target_size)
        trainer = self.trainer(
            self.images,
            experiment.recipe,
            seed=seed,
            augmentation=AUGMENTATION,
            fabric=self.fabric,
            observer=_Printer(),
        )
        changes: list[Change] = []
        if course.pretrain:
            stage, records = self.beginning(trainer, "resized", course.beginning)
            if course.grown:
                stage, change = self._grown(trainer, stage, *course.grown)
                changes.append(change)
                records += trainer.fit(stage, range(len(records), course.pretrain))
            if course.pretrain < epochs:
                size = experiment.pretrain_size if course.small else experiment.target_size
                network = experiment.resized(experiment.network(seed), size)
                stage, change = trainer.upscale(stage, network, size=size, epoch=course.pretrain)
                changes.append(change)
            if course.small:
                stage.phase = SMALL_PHASES["progressive"]
        elif enlargements:
            stage, records = self.beginning(trainer, "progressive", enlargements[0][0])
        else:
            network = experiment.network(seed)
            stage, records = trainer.stage("target", network, experiment.target_size), []
        for epoch, size in enlargements:
            records += trainer.fit(stage, range(len(records), epoch))
            if isinstance(stage.network, PretrainNetwork):  # a head that has to fit
                network = experiment.resized(experiment.network(seed), size)
                stage, change = trainer.upscale(stage, network, size=size, epoch=epoch)
            else:
                stage, change = trainer.enlarge(stage, size=size, epoch=epoch)
            if size != experiment.target_size:
                stage.phase = middle_phase(size)
            changes.append(change)
        records += trainer.fit(stage, range(len(records), epochs))
        self.journal.add(Run(course.name, seed, tuple(records), combined(changes)))

    def _grown(self, trainer: Trainer, stage: Stage, epoch: int, size: int) -> tuple[Stage, Change]:
        """The pre-train network for larger images takes over."""
        network = self.experiment.pretrain_network(self.experiment.network(trainer.seed), size)
        larger, change = trainer.upscale(stage, network, size=size, epoch=epoch)
        larger.phase = grown_phase(size)
        return larger, change

    def beginning(
        self, trainer: Trainer, kind: str, length: int
    ) -> tuple[Stage, list[EpochRecord]]:
        """A small-image stage after `length` epochs, from the furthest checkpoint before it."""
        target = self.experiment.network(trainer.seed)
        size = self.experiment.pretrain_size
        resized, pretrain = self.experiment.resized, self.experiment.pretrain_network
        network = pretrain(target) if kind == "resized" else resized(target, size)
        stage = trainer.stage(SMALL_PHASES[kind], network, size)
        records: list[EpochRecord] = []
        stops = [e for e in self.experiment.changes(kind) if e <= length]
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


def middle_phase(size: int) -> str:
    return f"{size} px"


def grown_phase(size: int) -> str:
    return f"pre-train, {middle_phase(size)}"


def combined(changes: Sequence[Change]) -> Change | None:
    """The first change, which is what an accuracy may be lost in, at the cost of all."""
    seconds = sum(change.seconds for change in changes)
    return replace(changes[0], seconds=seconds) if changes else None


class _Printer(Observer):
    def epoch(self, record: EpochRecord) -> None:
        print(
            f"  epoch {record.epoch:3d}  {record.phase:12s} {record.size} px  "
            f"{record.seconds:6.1f} s  loss {record.train_loss:.3f}  "
            f"accuracy {100 * record.accuracy:.1f} %",
            flush=True,
        )


def step_times(
    experiment: Experiment, device: torch.device, *, graphed: bool = False
) -> dict[str, float]:
    """Median seconds of a training step of each phase, the networks taking turns."""
    settings = Settings(
        device,
        DTYPES[experiment.precision],
        batch_size=experiment.recipe.batch_size,
        graphed=graphed,
    )
    target = placed(experiment.network(0), settings)
    pretrain = experiment.pretrain_network(target)
    steps = {
        "target": training_step(target, experiment.target_size, settings),
        "pre-train": training_step(pretrain, experiment.pretrain_size, settings),
    }
    sizes = {middle_phase(c.middle[1]): c.middle[1] for c in experiment.courses if c.middle}
    if any(course.small for course in experiment.courses):
        sizes["small images"] = experiment.pretrain_size
    for size in {course.grown[1] for course in experiment.courses if course.grown}:
        network = experiment.pretrain_network(target, size)
        steps[grown_phase(size)] = training_step(network, size, settings)
    for phase, size in sizes.items():
        network = placed(experiment.resized(target, size), settings)
        steps[phase] = training_step(network, size, settings)
    return alternating_medians(steps, repeats=ROUNDS, device=device)
