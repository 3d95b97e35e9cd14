"""What a run has done so far: enough, with the weights, to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpochResult:
    """One epoch, counted from 1. `accuracy` and `test_loss` are of the test images.

    `seconds` are those of training alone, `unreadable` the images that could not be read in it,
    and `extra` says whether learning rules were held (section 5.2).
    """

    epoch: int
    phase: int
    size: int
    learning_rate: float
    weight_decay: float
    extra: bool
    train_loss: float
    test_loss: float
    accuracy: float
    seconds: float
    images_per_second: float
    unreadable: int


@dataclass(frozen=True)
class PhaseChange:
    """A transition, and what it cost.

    **Attributes:**

    - `epoch`: epochs trained before it; `phase`: the one that it led to, `size` of its images.
    - `mapping_seconds`: compiling the next network by fxscale, weights and optimizer state through
      the maps, wrapping for the devices.
    - `batchnorm_seconds`: re-estimating BatchNorm, images loaded included.
    - `compile_seconds`: `torch.compile`, the first step and evaluation on noise; 0 without it.
    - `before`, `after`: accuracy on the test images, each at its own size, from 0 to 1.
    - `state_hash`: SHA-256 of the new network's weights and buffers, the same on every process.
    """

    epoch: int
    phase: int
    size: int
    mapping_seconds: float
    batchnorm_seconds: float
    compile_seconds: float
    before: float
    after: float
    state_hash: str

    @property
    def seconds(self) -> float:
        """All that the transition cost, evaluation aside."""
        return self.mapping_seconds + self.batchnorm_seconds + self.compile_seconds


@dataclass
class Progress:
    """Where a run stands.

    **Attributes:**

    - `results`, `changes`: finished epochs and transitions.
    - `step`: optimizer steps done in the epoch that is in training; `steps`: in the whole run.
    - `loss`: sum over those `step` steps of the mean loss, up to the last look at it, and
      `pending`, the sum since then.
    - `seconds`: training time of that epoch so far; `unreadable`: images of it.
    - `compile_seconds`: `torch.compile` of the first network, at the beginning of the run.
    """

    results: list[EpochResult] = field(default_factory=list)
    changes: list[PhaseChange] = field(default_factory=list)
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    pending: float = 0.0
    seconds: float = 0.0
    unreadable: int = 0
    compile_seconds: float = 0.0

    @property
    def accuracies(self) -> list[float]:
        return [result.accuracy for result in self.results]

    @property
    def best(self) -> EpochResult | None:
        """The first epoch with the highest accuracy of the last phase so far."""
        last = [r for r in self.results if r.phase == self.results[-1].phase]
        return max(last, key=lambda r: r.accuracy, default=None)

    def finish(self, result: EpochResult) -> None:
        """Takes an epoch in, and is at the beginning of the next."""
        self.results.append(result)
        self.step, self.loss, self.pending, self.seconds, self.unreadable = 0, 0.0, 0.0, 0.0, 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> Progress:
        fields = dict(entry)
        fields["results"] = [EpochResult(**result) for result in entry["results"]]
        fields["changes"] = [PhaseChange(**change) for change in entry["changes"]]
        return Progress(**fields)
