"""The two schedules of the paper."""

from __future__ import annotations

from fxscale.errors import FxscaleError
from fxscale.schedules.learning_rules import LearningRules, Rule
from fxscale.schedules.resizing import AUTO, ResizeRule
from fxscale.schedules.schedule import ExtraTraining, Schedule

MOMENTUM = 0.9
BATCH_SIZE = 128
"""Of both schedules."""

OVERFEAT = LearningRules(
    55,
    (
        Rule(0, 1e-2, 1e-4),
        Rule(18, 5e-3, 1e-4),
        Rule(29, 1e-3, 0.0),
        Rule(43, 5e-4, 0.0),
        Rule(52, 1e-4, 0.0),
    ),
)
"""Section 4: SGD, 10,000 batches an epoch; no weight decay after epoch 29."""

RESNET34 = LearningRules(90, (Rule(0, 1e-1, 1e-4), Rule(30, 1e-2, 1e-4), Rule(60, 1e-3, 1e-4)))
"""Section 5.3: SGD; the rate falls before epochs 31 and 61."""

_RULES = {"overfeat": OVERFEAT, "resnet34": RESNET34}
NAMES = tuple(_RULES)


def rules_of(name: str) -> LearningRules:
    """The learning rules of a preset. Raises `FxscaleError` if there is none of that name."""
    if name not in _RULES:
        raise FxscaleError(f"no schedule is called {name!r}: choose one of {', '.join(NAMES)}")
    return _RULES[name]


def overfeat(
    *,
    phases: int = 2,
    resize: ResizeRule = AUTO,
    extra: ExtraTraining | None = None,
    warmup: float = 0.0,
    raised: int = 0,
) -> Schedule:
    """OverFeat-fast: 55 epochs; by default the target takes over after 16 (Table 2, "epoch 17")."""
    return Schedule(OVERFEAT, phases, resize, extra, warmup, raised)


def resnet34(
    *,
    phases: int = 2,
    resize: ResizeRule = AUTO,
    extra: ExtraTraining | None = None,
    warmup: float = 0.0,
    raised: int = 0,
) -> Schedule:
    """ResNet-34: 90 epochs; by default the target takes over after 28 (Table 4, "epoch 29")."""
    return Schedule(RESNET34, phases, resize, extra, warmup, raised)
