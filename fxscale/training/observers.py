"""What a run tells the outside: a protocol, JSON lines, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxscale.files import written_whole
from fxscale.schedules import Epoch
from fxscale.training.extra import require
from fxscale.training.progress import EpochResult, PhaseChange, Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Plan:
    """What lies ahead of a run that starts or is resumed.

    - `outlook`: the epochs to come, as far as they can be foreseen.
    - `steps_per_epoch`, `batch_size`: optimizer steps, and images in each.
    - `costs`: how much arithmetic an image takes in each phase, in any unit.
    - `sizes`: of the images of each phase.
    - `pretrain_phases`: how many phases, the first ones, have smaller kernels.
    """

    outlook: Sequence[Epoch]
    steps_per_epoch: int
    batch_size: int
    costs: Sequence[int]
    sizes: Sequence[int]
    pretrain_phases: int


@dataclass(frozen=True)
class StepReport:
    """The mean loss since the last report, over all processes; `steps` counts those of the run."""

    epoch: int
    step: int
    steps: int
    phase: int
    size: int
    loss: float
    learning_rate: float
    images_per_second: float


class TrainingObserver:
    """Told what a run does, on the first process alone. This one does nothing."""

    def started(self, plan: Plan, progress: Progress) -> None:
        """A run begins, or goes on from `progress`."""

    def compiled(self, size: int, seconds: float) -> None:
        """By `torch.compile`, for images of `size`: the network that the run begins with.

        At a resumption once more. What a transition leads to is compiled in it: `PhaseChange`.
        """

    def step(self) -> None:
        """An optimizer step is done."""

    def report(self, report: StepReport) -> None:
        """Every `log_every` steps, and at the end of an epoch."""

    def unreadable(self, faults: Sequence[str]) -> None:
        """Images that could not be read, `"FILE: ERROR"` each."""

    def epoch(self, result: EpochResult, outlook: Sequence[Epoch]) -> None:
        """An epoch is trained and evaluated."""

    def change(self, change: PhaseChange) -> None:
        """A transition is done."""

    def checkpoint(self, path: Path) -> None:
        """A checkpoint is written."""

    def closed(self) -> None:
        """The run is over, or has failed."""


class JsonLines(TrainingObserver):
    """One JSON object a line, with its kind under `"event"`.

    A resumed run first takes away what lies beyond its checkpoint, so that the file reads like that
    of one run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def started(self, plan: Plan, progress: Progress) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if _is_before(line, progress.steps)]
        with written_whole(self.path) as partial:
            partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._steps = progress.steps
        if progress.steps:
            self._write("resumed", {})

    def compiled(self, size: int, seconds: float) -> None:
        self._write("compiled", {"size": size, "seconds": seconds})

    def step(self) -> None:
        self._steps += 1

    def report(self, report: StepReport) -> None:
        self._write("step", asdict(report))

    def unreadable(self, faults: Sequence[str]) -> None:
        self._write("unreadable", {"images": list(faults)})

    def epoch(self, result: EpochResult, outlook: Sequence[Epoch]) -> None:
        self._write("epoch", asdict(result))

    def change(self, change: PhaseChange) -> None:
        self._write("transition", asdict(change) | {"seconds": change.seconds})

    def checkpoint(self, path: Path) -> None:
        self._write("checkpoint", {"path": str(path)})

    def _write(self, event: str, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "steps": self._steps} | entry) + "\n")


def _is_before(line: str, steps: int) -> bool:
    try:
        return int(json.loads(line)["steps"]) <= steps
    except (ValueError, KeyError, TypeError):
        return False  # cut off when the process was


class TensorBoard(TrainingObserver):
    """Curves for TensorBoard, against optimizer steps."""

    def __init__(self, folder: Path) -> None:
        require("tensorboard")
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def started(self, plan: Plan, progress: Progress) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Of a resumed run, what lies beyond its checkpoint is not shown.
        self._writer = SummaryWriter(str(self.folder), purge_step=progress.steps + 1)
        self._steps = progress.steps

    def compiled(self, size: int, seconds: float) -> None:
        self._add("compile/seconds", seconds)

    def step(self) -> None:
        self._steps += 1

    def report(self, report: StepReport) -> None:
        self._add("train/loss", report.loss)
        self._add("train/learning_rate", report.learning_rate)
        self._add("train/images_per_second", report.images_per_second)
        self._add("train/size", report.size)

    def epoch(self, result: EpochResult, outlook: Sequence[Epoch]) -> None:
        self._add("test/accuracy", result.accuracy)
        self._add("test/loss", result.test_loss)
        self._add("train/epoch_seconds", result.seconds)

    def change(self, change: PhaseChange) -> None:
        self._add("transition/seconds", change.seconds)
        self._add("compile/seconds", change.compile_seconds)
        self._add("transition/accuracy_before", change.before)
        self._add("transition/accuracy_after", change.after)

    def closed(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, name: str, value: float) -> None:
        assert self._writer is not None  # started comes first
        self._writer.add_scalar(name, value, self._steps)


class Several(TrainingObserver):
    """Tells all of them, in order."""

    def __init__(self, observers: Sequence[TrainingObserver]) -> None:
        self.observers = observers

    def started(self, plan: Plan, progress: Progress) -> None:
        for observer in self.observers:
            observer.started(plan, progress)

    def compiled(self, size: int, seconds: float) -> None:
        for observer in self.observers:
            observer.compiled(size, seconds)

    def step(self) -> None:
        for observer in self.observers:
            observer.step()

    def report(self, report: StepReport) -> None:
        for observer in self.observers:
            observer.report(report)

    def unreadable(self, faults: Sequence[str]) -> None:
        for observer in self.observers:
            observer.unreadable(faults)

    def epoch(self, result: EpochResult, outlook: Sequence[Epoch]) -> None:
        for observer in self.observers:
            observer.epoch(result, outlook)

    def change(self, change: PhaseChange) -> None:
        for observer in self.observers:
            observer.change(change)

    def checkpoint(self, path: Path) -> None:
        for observer in self.observers:
            observer.checkpoint(path)

    def closed(self) -> None:
        for observer in self.observers:
            observer.closed()
