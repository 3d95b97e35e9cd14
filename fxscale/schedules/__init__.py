"""When to train which network, and with which learning rate. Needs no trainer.

`Schedule.next_epoch` tells the next epoch from the accuracies so far; `overfeat` and `resnet34` are
the paper's schedules.
"""

from fxscale.schedules.learning_rules import LearningRules, Rule
from fxscale.schedules.presets import overfeat, resnet34
from fxscale.schedules.resizing import (
    At,
    BeforeDrop,
    Never,
    OnPlateau,
    Progress,
    ResizeRule,
    parse_resize_rule,
)
from fxscale.schedules.schedule import Epoch, ExtraTraining, Schedule

__all__ = [
    "At",
    "BeforeDrop",
    "Epoch",
    "ExtraTraining",
    "LearningRules",
    "Never",
    "OnPlateau",
    "Progress",
    "ResizeRule",
    "Rule",
    "Schedule",
    "overfeat",
    "parse_resize_rule",
    "resnet34",
]
