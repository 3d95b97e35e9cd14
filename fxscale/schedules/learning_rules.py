"""Learning rates and weight decays, constant between drops: the paper's "learning rules"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from fxscale.errors import FxscaleError


@dataclass(frozen=True)
class Rule:
    """What holds from `start` completed epochs on, until the next rule."""

    start: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class LearningRules:
    """A schedule as papers print them: so many epochs, and rules that take turns.

    **Attributes:**

    - `epochs`: epochs of the schedule, all phases together, without extra training.
    - `rules`: in order, the first from 0.

    Epochs are counted as completed ones: a rule of `start=30` holds from the 31st epoch on.

    **Raises:** `FxscaleError` for rules that are out of order, or have impossible values.
    """

    epochs: int
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        starts = [rule.start for rule in self.rules]
        if self.epochs < 1 or starts[:1] != [0] or starts != sorted(set(starts)):
            raise FxscaleError(
                f"learning rules need at least 1 epoch, a rule from epoch 0 on and increasing "
                f"starts; found {self.epochs} epochs and rules that start at {starts}"
            )
        if starts[-1] >= self.epochs:
            raise FxscaleError(
                f"the last learning rule starts after {starts[-1]} epochs, but there are only "
                f"{self.epochs}. Drop the learning rate earlier or train longer"
            )
        for rule in self.rules:
            if not (rule.learning_rate > 0 and isfinite(rule.learning_rate)):
                raise FxscaleError(f"a learning rate must be positive; found {rule.learning_rate}")
            if not (rule.weight_decay >= 0 and isfinite(rule.weight_decay)):
                raise FxscaleError(f"a weight decay must not be negative; found {rule}")

    @staticmethod
    def drops(
        epochs: int,
        learning_rate: float,
        milestones: Sequence[int] = (),
        *,
        gamma: float = 0.1,
        weight_decay: float = 1e-4,
    ) -> LearningRules:
        """The rate is multiplied by `gamma` after each of `milestones` completed epochs."""
        starts = (0, *milestones)
        return LearningRules(
            epochs,
            tuple(
                Rule(start, learning_rate * gamma**number, weight_decay)
                for number, start in enumerate(starts)
            ),
        )

    def at(self, position: int) -> Rule:
        """The rule of the epoch that follows on `position` completed epochs of the schedule."""
        return [rule for rule in self.rules if rule.start <= position][-1]

    def changes_at(self, position: int) -> bool:
        """Whether another rule begins after `position` completed epochs."""
        return any(rule.start == position > 0 for rule in self.rules)

    @property
    def first_drop(self) -> int | None:
        """Completed epochs at which the learning rate first falls; `None` if it never does."""
        for before, after in pairwise(self.rules):
            if after.learning_rate < before.learning_rate:
                return after.start
        return None
