"""What `step_time` found of one model, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks._table import markdown_table

MEBIBYTE = 2**20
HEADER = (
    "model",
    "sizes",
    "target (ms)",
    "progressive resizing (ms)",
    "pre-train (ms)",
    "over target",
    "over progressive resizing",
    "MAC ratio",
    "share of it",
    "memory, progressive resizing",
    "memory, pre-train",
)
EQUAL_MEMORY_HEADER = (
    "model",
    "target's memory (MiB)",
    "batches",
    "images per second",
    "over target",
    "over progressive resizing",
)
NETWORKS = ("target", "progressive", "pretrain")
EQUAL_MEMORY = """\
## At equal memory

The target's batch, and the largest of the others that take no more memory than it does: target /
progressive resizing / pre-train.
"""


@dataclass(frozen=True)
class StepTimes:
    """Figures of one model, by network: `NETWORKS`, without what the model cannot do.

    **Attributes:**

    - `seconds`: median time of one step; `memory`: bytes that it takes; this and what follows is
      empty where it was not measured.
    - `batches`: the most images a step whose memory is the target's at the batch size of `seconds`;
      `equal_memory_seconds`: median time of one step of so many.
    """

    model: str
    target_size: int
    pretrain_size: int
    mac_ratio: float
    seconds: dict[str, float]
    memory: dict[str, float]
    batches: dict[str, int]
    equal_memory_seconds: dict[str, float]

    @property
    def share(self) -> float:
        """Of the ratio of multiply-accumulates: 1 if arithmetic were all that takes time."""
        return self.seconds["target"] / self.seconds["pretrain"] / self.mac_ratio

    @property
    def images_per_second(self) -> dict[str, float]:
        """At equal memory."""
        return {name: self.batches[name] / s for name, s in self.equal_memory_seconds.items()}


def table(results: Sequence[StepTimes]) -> str:
    rows = []
    for r in results:
        target, progressive, pretrain = map(r.seconds.get, NETWORKS)
        memory = {name: value / r.memory["target"] for name, value in r.memory.items()}
        rows.append(
            [
                r.model,
                f"{r.target_size} / {r.pretrain_size}",
                *(_text(s and 1e3 * s, ".1f") for s in (target, progressive, pretrain)),
                _ratio(target, pretrain),
                _ratio(progressive, pretrain),
                f"{r.mac_ratio:.2f}×",
                f"{100 * r.share:.0f} %",
                _text(memory.get("progressive"), ".2f"),
                _text(memory.get("pretrain"), ".2f"),
            ]
        )
    return markdown_table(HEADER, rows)


def equal_memory_table(results: Sequence[StepTimes]) -> str:
    rows = []
    for r in results:
        target, progressive, pretrain = map(r.images_per_second.get, NETWORKS)
        rows.append(
            [
                r.model,
                f"{r.memory['target'] / MEBIBYTE:.0f}",
                " / ".join(_text(r.batches.get(name), "d") for name in NETWORKS),
                " / ".join(_text(pace, ".1f") for pace in (target, progressive, pretrain)),
                _ratio(pretrain, target),
                _ratio(pretrain, progressive),
            ]
        )
    return markdown_table(EQUAL_MEMORY_HEADER, rows)


def _ratio(one: float | None, other: float | None) -> str:
    return "-" if one is None or other is None else f"{one / other:.2f}×"


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
