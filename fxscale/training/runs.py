"""What a training run leaves behind: its epochs, its change of network, and figures of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from statistics import mean, median, stdev
from typing import Any

from fxscale.training.loop import Change, EpochRecord


@dataclass(frozen=True)
class Run:
    """One training run: all its epochs, and the change of network if there was one."""

    name: str
    seed: int
    records: tuple[EpochRecord, ...]
    change: Change | None = None

    @property
    def accuracy(self) -> float:
        """Accuracy on the test images after the last epoch, from 0 to 1 (not the best epoch's)."""
        return self.records[-1].accuracy

    @property
    def seconds(self) -> float:
        """Training time of all epochs and of the change of network, without evaluations."""
        return self.elapsed()[-1]

    def elapsed(self) -> list[float]:
        """Training time, in seconds, at the end of each epoch; the change counts where it falls."""
        times = [record.seconds for record in self.records]
        if self.change is not None and self.change.epoch < len(times):
            times[self.change.epoch] += self.change.seconds
        return list(accumulate(times))

    def epoch_seconds(self, phase: str) -> float:
        """Median training time of the phase's epochs."""
        return median(record.seconds for record in self.records if record.phase == phase)

    @property
    def steady_seconds(self) -> float:
        """Training time had every epoch of a phase taken the phase's median time.

        On a machine with other work to do it says more than `seconds`.
        """
        epochs = sum(self.epoch_seconds(record.phase) for record in self.records)
        return epochs + (self.change.seconds if self.change else 0.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(entry: dict[str, Any]) -> Run:
        change = entry["change"]
        return Run(
            entry["name"],
            entry["seed"],
            tuple(EpochRecord(**record) for record in entry["records"]),
            None if change is None else Change(**change),
        )


def percent(values: Iterable[float], digits: int = 1) -> str:
    """Shares as per cent: `"61.3 %"`, or mean and standard deviation, `"61.3 ± 0.8 %"`."""
    return f"{spread([100 * value for value in values], digits)} %"


def seconds(values: Iterable[float]) -> str:
    """Seconds, or mean and standard deviation: `"12.3 ± 0.2 s"`."""
    return f"{spread(list(values), 1)} s"


def spread(values: Sequence[float], digits: int) -> str:
    """The value, or mean and sample standard deviation of several."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def signed(values: Sequence[float], digits: int) -> str:
    """The same of a difference: with its sign, also where that is plus."""
    text = spread(values, digits)
    return text if text.startswith("-") else f"+{text}"


def of_changes(runs: Iterable[Run], figure: Callable[[Change], float]) -> list[float]:
    """`figure` of every run that changed its network."""
    return [figure(run.change) for run in runs if run.change is not None]
