"""What `tiny_imagenet` trains: the experiment, its runs, and the journal of those that are done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxscale
from fxscale.errors import FxscaleError
from fxscale.models.registry import create
from fxscale.training import ImageSet, Recipe, Run, SmallResNet, image_folder
from fxscale.training.models import resized_progressively
from fxscale.training.settings import Precision


@dataclass(frozen=True)
class Course:
    """Until which epoch, counted from the start, a run trains on small images; 0: not at all.

    The pre-train network does until `pretrain`, the target from there until `small`. From the epoch
    that is first in `grown` (the pre-train network's) or `middle` (the target's) on they are of the
    size that is second. All other epochs are the target's on its own images.
    """

    name: str
    pretrain: int = 0
    small: int = 0
    middle: tuple[int, int] | None = None
    grown: tuple[int, int] | None = None

    @property
    def beginning(self) -> int:
        """The epochs of the pre-train network on its first size."""
        return self.grown[0] if self.grown else self.pretrain

    def enlargements(self, target_size: int) -> list[tuple[int, int]]:
        """After which epochs the target's images grow, and to which size."""
        if not self.small:
            return []
        return [*([self.middle] if self.middle else []), (self.small, target_size)]


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
    courses: tuple[Course, ...]
    model: str | None = None
    precision: Precision = "fp32"

    def images(self, data: Path) -> ImageSet:
        return image_folder(
            data, classes=self.classes, size=self.target_size, held_out=self.held_out
        )

    def network(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.model is not None:
                return create(self.model, num_classes=self.classes)
            return SmallResNet(3, self.classes, widths=self.widths, blocks=self.blocks)

    def pretrain_network(self, target: nn.Module, size: int | None = None) -> nn.Module:
        """For images of `size`, by default those that runs begin with."""
        size = size or self.pretrain_size
        return fxscale.downscale(target, size, target_size=self.target_size)

    def resized(self, target: nn.Module, size: int) -> nn.Module:
        """The target for images of this size: itself, but for a head that takes no others."""
        if size == self.target_size:
            return target
        (network,) = resized_progressively(target, self.target_size, [size])
        return network

    def changes(self, kind: str) -> list[int]:
        """After which epochs runs leave a beginning, `"resized"` or `"progressive"`, in order."""
        if kind == "resized":
            epochs = {course.beginning for course in self.courses} - {self.recipe.epochs}
        else:
            epochs = {
                course.enlargements(self.target_size)[0][0]
                for course in self.courses
                if course.small and not course.pretrain
            }
        return sorted(epochs - {0})

    def to_dict(self) -> dict[str, Any]:
        # Which runs are made does not change what one measures.
        entries = asdict(self)
        del entries["courses"]
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
