"""When to go over from one network to the next, as rules that know nothing of networks.

Positions are completed epochs of the schedule. The paper counts differently: its "resized at epoch
29" is a target network whose first epoch is the 29th, so 28 epochs of pre-training (its running
times say so, too: 145.60 h is 28 epochs at 0.78 h and 62 at 1.99 h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from fxscale.errors import FxscaleError
from fxscale.schedules.learning_rules import LearningRules


@dataclass(frozen=True)
class Progress:
    """Where training stands when a rule is asked.

    **Attributes:**

    - `transition`: the number of the next transition, from 0, of `transitions`.
    - `position`: completed epochs of the schedule.
    - `accuracies`: of the network that trains now, from 0 to 1, one per epoch.
    """

    transition: int
    transitions: int
    position: int
    accuracies: Sequence[float]


class ResizeRule(Protocol):
    """Decides after every epoch whether the next network takes over."""

    def check(self, rules: LearningRules, transitions: int) -> None:
        """Raises `FxscaleError` where the rule cannot work with this schedule."""

    def due(self, rules: LearningRules, state: Progress) -> bool:
        """Whether the next transition happens now."""


@dataclass(frozen=True)
class At:
    """After fixed numbers of completed epochs, one per transition."""

    epochs: tuple[int, ...]

    def check(self, rules: LearningRules, transitions: int) -> None:
        increasing = list(self.epochs) == sorted(set(self.epochs))
        if len(self.epochs) != transitions or not increasing:
            raise FxscaleError(
                f"{transitions} transitions need as many increasing epochs to resize at; found "
                f"{list(self.epochs)}"
            )
        if not all(0 < epoch < rules.epochs for epoch in self.epochs):
            raise FxscaleError(
                f"epochs to resize at must lie between 1 and {rules.epochs - 1}, so that every "
                f"network trains; found {list(self.epochs)}"
            )

    def due(self, rules: LearningRules, state: Progress) -> bool:
        return state.position >= self.epochs[state.transition]


EARLY = 0.2
"""Share of the epochs before the last transition that small kernels get, if images grow last."""


@dataclass(frozen=True)
class BeforeDrop:
    """`lead` epochs before the learning rate first drops (section 5.1): what `auto` means.

    Of several transitions this is the last; the others share the epochs before it evenly.

    **Attributes:**

    - `kernels`: how many transitions, the first ones, enlarge kernels where the others enlarge
      images alone. They share the first fifth of the epochs: small kernels are as good as the
      target's at first, small images until the drop (`docs/experiments.md`).
    """

    lead: int = 2
    kernels: int = 0

    def check(self, rules: LearningRules, transitions: int) -> None:
        drop = rules.first_drop
        if drop is None:
            raise FxscaleError(
                "the learning rate never drops, so there is no epoch to resize before: give the "
                "epoch to resize at"
            )
        ends = self._ends(drop - self.lead, transitions)
        if self.lead < 0 or not all(a < b for a, b in pairwise((0, *ends))):
            raise FxscaleError(
                f"the learning rate first drops after epoch {drop}, and the last transition (of "
                f"{transitions}) is to come {self.lead} epochs before: this leaves a network "
                "without an epoch. Let the rate drop later, or give the epochs to resize at"
            )

    def due(self, rules: LearningRules, state: Progress) -> bool:
        assert rules.first_drop is not None  # checked
        ends = self._ends(rules.first_drop - self.lead, state.transitions)
        return state.position >= ends[state.transition]

    def _ends(self, last: int, transitions: int) -> list[int]:
        """Completed epochs at each transition."""
        kernels = self.kernels if self.kernels < transitions else 0
        early = max(kernels, round(EARLY * last)) if kernels else 0
        images = transitions - kernels
        return [
            *(round(early * (n + 1) / kernels) for n in range(kernels)),
            *(early + round((last - early) * (n + 1) / images) for n in range(images)),
        ]


AUTO = BeforeDrop()


@dataclass(frozen=True)
class OnPlateau:
    """When the accuracy of the network in training has stopped rising.

    **Attributes:**

    - `patience`: so many epochs in a row without a new best accuracy.
    - `rise`: how much better than the best an accuracy must be to count as risen, from 0 to 1.
    - `latest`: completed epochs after which the transition comes in any case. By default the first
      drop of the learning rate, for a network that is resized later saturates (section 5.1), or
      the last epoch but one if the rate never drops. Of several transitions each leaves the later
      ones an epoch.
    """

    patience: int = 2
    rise: float = 0.0
    latest: int | None = None

    def check(self, rules: LearningRules, transitions: int) -> None:
        if self.patience < 1 or self.rise < 0:
            raise FxscaleError(
                f"a plateau needs a patience of at least 1 epoch and a rise of at least 0; found "
                f"{self.patience} and {self.rise}"
            )
        latest = self._latest(rules)
        if not transitions <= latest < rules.epochs:
            raise FxscaleError(
                f"{transitions} transitions on a plateau must come after {transitions} to "
                f"{rules.epochs - 1} epochs at the latest; found {latest}"
            )

    def due(self, rules: LearningRules, state: Progress) -> bool:
        if state.position >= self._latest(rules) - (state.transitions - 1 - state.transition):
            return True
        best, waited = float("-inf"), 0
        for accuracy in state.accuracies:
            risen = accuracy > best + self.rise
            best, waited = (accuracy, 0) if risen else (best, waited + 1)
        return waited >= self.patience

    def _latest(self, rules: LearningRules) -> int:
        if self.latest is not None:
            return self.latest
        return rules.epochs - 1 if rules.first_drop is None else rules.first_drop


@dataclass(frozen=True)
class Never:
    """The first network trains to the end: a pre-train network alone, for comparisons."""

    def check(self, rules: LearningRules, transitions: int) -> None:
        pass

    def due(self, rules: LearningRules, state: Progress) -> bool:
        return False


def parse_resize_rule(text: str, *, kernels: int = 0) -> ResizeRule:
    """`"29"`, `"20,29"`, `"auto"`, `"plateau"` or `"never"` as a rule.

    `kernels`: as for `BeforeDrop`.

    **Raises:** `FxscaleError` for anything else.
    """
    named: dict[str, ResizeRule] = {
        "auto": BeforeDrop(kernels=kernels),
        "plateau": OnPlateau(),
        "never": Never(),
    }
    if text in named:
        return named[text]
    try:
        return At(tuple(int(part) for part in text.split(",")))
    except ValueError:
        raise FxscaleError(
            f"{text!r} does not say when to resize: write epochs such as 29 or 20,29, or one of "
            f"{', '.join(named)}"
        ) from None
