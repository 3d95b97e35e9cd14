from __future__ import annotations

import pytest
import torch

from fxscale.errors import FxscaleError
from fxscale.schedules import LearningRules, Rule


def test_drops_are_those_of_torch() -> None:
    rules = LearningRules.drops(12, 0.4, (3, 7, 8), gamma=0.2, weight_decay=0.05)

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7, 8], gamma=0.2)
    for epoch in range(12):
        assert rules.at(epoch).learning_rate == pytest.approx(scheduler.get_last_lr()[0])
        assert rules.at(epoch).weight_decay == 0.05
        optimizer.step()
        scheduler.step()


def test_changes_and_the_first_drop() -> None:
    rules = LearningRules(9, (Rule(0, 0.1, 1e-4), Rule(2, 0.1, 0.0), Rule(5, 0.01, 0.0)))

    assert [p for p in range(9) if rules.changes_at(p)] == [2, 5]
    assert rules.first_drop == 5  # at 2 only the weight decay falls
    assert LearningRules.drops(9, 0.1).first_drop is None


@pytest.mark.parametrize(
    ("epochs", "rules", "words"),
    [
        (0, (Rule(0, 0.1, 0.0),), "at least 1 epoch"),
        (5, (), "a rule from epoch 0 on"),
        (5, (Rule(1, 0.1, 0.0),), r"start at \[1\]"),
        (5, (Rule(0, 0.1, 0.0), Rule(3, 0.1, 0.0), Rule(3, 0.2, 0.0)), r"start at \[0, 3, 3\]"),
        (5, (Rule(0, 0.1, 0.0), Rule(5, 0.1, 0.0)), "starts after 5 epochs"),
        (5, (Rule(0, 0.0, 0.0),), "learning rate must be positive; found 0.0"),
        (5, (Rule(0, float("nan"), 0.0),), "learning rate must be positive; found nan"),
        (5, (Rule(0, 0.1, -1.0),), "weight decay must not be negative"),
    ],
)
def test_impossible_rules(epochs: int, rules: tuple[Rule, ...], words: str) -> None:
    with pytest.raises(FxscaleError, match=words):
        LearningRules(epochs, rules)
