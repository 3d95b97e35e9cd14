"""The progress bar: throughput, and how long the run will still take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fxscale.schedules import Epoch
from fxscale.training import observers, progress


class Bar(observers.TrainingObserver):
    """A bar over the whole run, and a line for every epoch and transition."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def started(self, plan: observers.Plan, progress: progress.Progress) -> None:
        self._plan = plan
        self._outlook = plan.outlook
        self._step_seconds: dict[int, float] = {}
        self._in_epoch = progress.step
        total = plan.steps_per_epoch * len(plan.outlook)
        if plan.outlook:
            self.console.print(f"epochs to train: {ahead(plan)}")
        self._task = self._bar.add_task("", total=total, completed=progress.step)
        self._bar.start()

    def compiled(self, size: int, seconds: float) -> None:
        self.console.print(f"torch.compile for {size} px: {seconds:.2f} s")

    def step(self) -> None:
        self._in_epoch += 1
        self._bar.advance(self._task)

    def report(self, report: observers.StepReport) -> None:
        self._step_seconds[report.phase] = self._plan.batch_size / report.images_per_second
        self._bar.update(
            self._task,
            description=f"epoch {report.epoch} · {report.size} px · loss {report.loss:.3f} · "
            f"{report.images_per_second:,.0f} images/s · {as_time(self.seconds_left())} left",
        )

    def seconds_left(self) -> float:
        """Of training alone: steps to come, each phase's at its own pace."""
        steps: dict[int, int] = {}
        for epoch in self._outlook:
            steps[epoch.phase] = steps.get(epoch.phase, 0) + self._plan.steps_per_epoch
        if self._outlook:
            steps[self._outlook[0].phase] -= self._in_epoch
        return sum(count * self._pace(phase) for phase, count in steps.items())

    def _pace(self, phase: int) -> float:
        """Seconds per step; before a phase has trained, from another's and the arithmetic."""
        if phase in self._step_seconds:
            return self._step_seconds[phase]
        known, seconds = list(self._step_seconds.items())[-1]
        return seconds * self._plan.costs[phase] / self._plan.costs[known]

    def epoch(self, result: progress.EpochResult, outlook: Sequence[Epoch]) -> None:
        self._outlook = outlook
        self._in_epoch = 0
        done = self._bar.tasks[self._task].completed
        self._bar.update(self._task, total=done + self._plan.steps_per_epoch * len(outlook))
        self.console.print(
            f"epoch {result.epoch:3d} · {result.size} px · "
            f"learning rate {result.learning_rate:g} · loss {result.train_loss:.3f} · "
            f"accuracy {100 * result.accuracy:.2f} % · "
            f"{result.seconds:.1f} s · {result.images_per_second:,.0f} images/s"
            + (" · extra" if result.extra else "")
            + (f" · {result.unreadable} images unreadable" if result.unreadable else "")
        )

    def change(self, change: progress.PhaseChange) -> None:
        self.console.print(
            f"transition to {change.size} px after epoch {change.epoch}: accuracy "
            f"{100 * change.before:.2f} % -> {100 * change.after:.2f} %; {change.seconds:.2f} s "
            f"({change.mapping_seconds:.2f} mapping, {change.batchnorm_seconds:.2f} BatchNorm, "
            f"{change.compile_seconds:.2f} torch.compile)"
        )

    def unreadable(self, faults: Sequence[str]) -> None:
        for fault in faults:
            self.console.print(f"unreadable: {fault}", markup=False)

    def closed(self) -> None:
        self._bar.stop()


def ahead(plan: observers.Plan) -> str:
    """`"4 at 32 px (small kernels), 9 at 64 px; as much arithmetic as 9.6 at 64 px"`."""
    epochs = Counter(epoch.phase for epoch in plan.outlook)
    names = [f"{size} px" for size in plan.sizes]
    for phase in range(plan.pretrain_phases):
        names[phase] += " (small kernels)"
    counts = ", ".join(f"{count} at {names[phase]}" for phase, count in epochs.items())
    if len(plan.sizes) == 1:
        return counts
    arithmetic = sum(count * plan.costs[phase] for phase, count in epochs.items())
    equal = arithmetic / plan.costs[-1]
    return f"{counts}; as much arithmetic as {equal:.1f} at {plan.sizes[-1]} px"


def as_time(seconds: float) -> str:
    """`"3:25:07"`, hours, minutes, seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
