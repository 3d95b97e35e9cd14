"""`Schedule`: the next epoch, from the accuracies of the epochs so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from fxscale.errors import FxscaleError
from fxscale.schedules.learning_rules import LearningRules
from fxscale.schedules.resizing import AUTO, Progress, ResizeRule


@dataclass(frozen=True)
class ExtraTraining:
    """Learning rules are held after a transition until accuracy drops (section 5.2).

    The schedule goes on as written until its next rule would begin. If accuracy has not dropped
    from one epoch of the new network to the next by then, the old rule is held, one extra epoch
    at a time, until it does; what is left of the schedule is shifted by the extra epochs.

    **Attributes:**

    - `most`: extra epochs per transition at most, for an accuracy may never drop; 10 is the most
      that the paper needed (Table 3).
    """

    most: int = 10

    def __post_init__(self) -> None:
        if self.most < 1:
            raise FxscaleError(f"extra training needs at least 1 epoch; found {self.most}")


@dataclass(frozen=True)
class Epoch:
    """One epoch to train.

    **Attributes:**

    - `number`: epochs trained before it.
    - `phase`: which network trains: 0 the smallest, `Schedule.phases - 1` the target.
    - `resize`: whether the transition to `phase` comes right before this epoch.
    - `extra`: whether it is an extra epoch, in which the learning rules are held.
    - `learning_rate`, `weight_decay`: of this epoch; in a warm-up, `rate` has less than the first.
    - `warmup`: epochs of warm-up that its phase begins with, and `warmed`, how many of them lie
      behind.
    """

    number: int
    phase: int
    resize: bool
    extra: bool
    learning_rate: float
    weight_decay: float
    warmup: float = 0.0
    warmed: int = 0

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0, of the `steps` of the epoch."""
        done = self.warmed + (step + 1) / steps
        return (
            self.learning_rate if done >= self.warmup else self.learning_rate * done / self.warmup
        )


@dataclass(frozen=True)
class Schedule:
    """Learning rules, when to resize, and extra training.

    It keeps no state: the accuracies of the epochs so far decide everything, so a run that is
    resumed with them goes on as it would have.

        schedule = fxscale.schedules.resnet34()
        accuracies = []
        while epoch := schedule.next_epoch(accuracies):
            if epoch.resize:
                ...  # fxscale.transition
            for group in optimizer.param_groups:
                group["lr"], group["weight_decay"] = epoch.learning_rate, epoch.weight_decay
            accuracies.append(train_one_epoch())  # with a warm-up: `epoch.rate` before every step

    **Attributes:**

    - `rules`: learning rate and weight decay of every epoch.
    - `phases`: networks that train one after another, the target included. 1: the target alone.
    - `resize`: when the next network takes over; `BeforeDrop` (section 5.1) by default.
    - `extra`: extra training after transitions; none by default.
    - `warmup`: epochs, fractions too, over which the learning rate rises linearly after every
      transition: the n-th of N such steps has n / N of the rate. 0, the default: none.
    - `raised`: so many epochs after the last transition have the schedule's first learning rule, in
      place of a later one; then it goes on as written, no longer than before. What a network cannot
      make up any more behind a drop of the learning rate (section 6) it makes up at the high one.
      0, the default: none.

    **Raises:** `FxscaleError` where the rule to resize does not fit the others, or `warmup` or
    `raised` is negative.
    """

    rules: LearningRules
    phases: int = 2
    resize: ResizeRule = AUTO
    extra: ExtraTraining | None = None
    warmup: float = 0.0
    raised: int = 0

    def __post_init__(self) -> None:
        if self.phases < 1:
            raise FxscaleError(f"a schedule needs at least 1 phase; found {self.phases}")
        if not (self.warmup >= 0 and isfinite(self.warmup)):
            raise FxscaleError(f"a warm-up takes 0 epochs or more; found {self.warmup}")
        if self.raised < 0:
            raise FxscaleError(f"the rate is raised for 0 epochs or more; found {self.raised}")
        if self.phases > 1:
            self.resize.check(self.rules, self.phases - 1)

    def next_epoch(self, accuracies: Sequence[float]) -> Epoch | None:
        """The epoch after those with test `accuracies` (0 to 1), or `None` when training is done.

        Nothing but `accuracies` of equal beginnings is compared, so any rising figure will do.
        """
        epochs = self._replay(accuracies)
        return epochs[-1] if len(epochs) > len(accuracies) else None

    def outlook(self, accuracies: Sequence[float]) -> list[Epoch]:
        """The epochs to come, as far as they can be foreseen.

        Pre-train networks are taken to improve with every epoch, so that none reaches a plateau
        early; the target's accuracy is taken to drop as soon as that ends extra training.
        """
        seen, epochs = list(accuracies), []
        while epoch := self.next_epoch(seen):
            epochs.append(epoch)
            rising = epoch.phase < self.phases - 1
            seen.append(max(seen, default=0.0) + 1 if rising else min(seen, default=0.0) - 1)
        return epochs

    def _replay(self, accuracies: Sequence[float]) -> list[Epoch]:
        """All epochs trained, and the next one if there is any."""
        epochs: list[Epoch] = []
        phase = position = held = 0
        begun = 0  # epochs trained when the phase began
        while len(epochs) <= len(accuracies):
            here = accuracies[begun : len(epochs)]
            resize = self._due(phase, position, here) if here else False
            if resize:
                phase, begun, held, here = phase + 1, len(epochs), 0, ()
            extra = self._hold(phase, position, held, here)
            if not extra and position >= self.rules.epochs:
                break
            number = len(epochs)
            raised = 0 < phase == self.phases - 1 and number - begun < self.raised
            rule = self.rules.at(0 if raised else position - 1 if extra else position)
            warmup = self.warmup if phase > 0 else 0.0
            epochs.append(
                Epoch(
                    number,
                    phase,
                    resize,
                    extra,
                    rule.learning_rate,
                    rule.weight_decay,
                    warmup,
                    number - begun,
                )
            )
            held += extra
            position += not extra
        return epochs

    def _due(self, phase: int, position: int, accuracies: Sequence[float]) -> bool:
        transitions = self.phases - 1
        if phase == transitions or position >= self.rules.epochs:
            return False
        return self.resize.due(self.rules, Progress(phase, transitions, position, accuracies))

    def _hold(self, phase: int, position: int, held: int, accuracies: Sequence[float]) -> bool:
        """Whether the next epoch is an extra one."""
        if self.extra is None or phase == 0 or held >= self.extra.most:
            return False
        if not self.rules.changes_at(position):
            return False
        dropped = any(after < before for before, after in pairwise(accuracies))
        return not dropped
