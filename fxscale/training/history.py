"""`History`: the epochs and transitions of a finished run, for comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from statistics import median
from typing import Any

from fxscale.training.progress import EpochResult, PhaseChange


@dataclass(frozen=True)
class History:
    """What a finished run went through, and figures of it.

    Seconds are those of training, of transitions and of `torch.compile` (that of the first network
    is `compile_seconds`); evaluations are left out.
    """

    seed: int
    epochs: tuple[EpochResult, ...]
    changes: tuple[PhaseChange, ...]
    compile_seconds: float = 0.0

    @property
    def best(self) -> EpochResult:
        """The first epoch of highest accuracy, of those of the network that the run ended with."""
        last = [epoch for epoch in self.epochs if epoch.phase == self.epochs[-1].phase]
        return max(last, key=lambda epoch: epoch.accuracy)

    @property
    def final(self) -> float:
        """Accuracy after the last epoch, from 0 to 1."""
        return self.epochs[-1].accuracy

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.elapsed()[-1]

    @property
    def steady_seconds(self) -> float:
        """Of the whole run, had every epoch of a phase taken the phase's median time.

        On a machine with other work to do it says more than `seconds`.
        """
        paces = {
            phase: median(epoch.seconds for epoch in self.epochs if epoch.phase == phase)
            for phase in {epoch.phase for epoch in self.epochs}
        }
        training = sum(paces[epoch.phase] for epoch in self.epochs)
        return self.compile_seconds + training + sum(c.seconds for c in self.changes)

    def elapsed(self) -> list[float]:
        """Seconds at the end of each epoch; what falls before it is part of them."""
        times = [epoch.seconds for epoch in self.epochs]
        times[0] += self.compile_seconds
        for change in self.changes:
            times[change.epoch] += change.seconds
        return list(accumulate(times))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> History:
        """What `to_dict` gave, read from JSON."""
        return History(
            entry["seed"],
            tuple(EpochResult(**epoch) for epoch in entry["epochs"]),
            tuple(PhaseChange(**change) for change in entry["changes"]),
            entry.get("compile_seconds", 0.0),  # older files have none
        )
