"""The schedule: paper's ResNet-34 by hand, and recipes that cannot be."""

from __future__ import annotations

import pytest
import torch

from fxscale.errors import FxscaleError
from fxscale.training import Recipe


def test_learning_rate_of_the_papers_resnet() -> None:
    recipe = Recipe(epochs=90, learning_rate=0.1, milestones=(30, 60))

    # Dropped before epochs 31 and 61, which are 30 and 60 counted from 0 (section 5.3).
    rates = [recipe.rate(epoch) for epoch in (0, 29, 30, 59, 60, 89)]

    assert rates == pytest.approx([1e-1, 1e-1, 1e-2, 1e-2, 1e-3, 1e-3])


def test_optimizer_has_the_recipes_options() -> None:
    recipe = Recipe(3, 0.2, (), momentum=0.8, weight_decay=0.3)

    options = recipe.optimizer(torch.nn.Linear(2, 2)).param_groups[0]

    assert (options["lr"], options["momentum"], options["weight_decay"]) == (0.2, 0.8, 0.3)


@pytest.mark.parametrize(
    ("epochs", "rate", "batch_size"), [(0, 0.1, 1), (1, 0.0, 1), (1, -0.1, 1), (1, 0.1, 0)]
)
def test_impossible_recipes(epochs: int, rate: float, batch_size: int) -> None:
    with pytest.raises(FxscaleError, match="a recipe needs at least 1 epoch, 1 image per step"):
        Recipe(epochs, rate, (), batch_size=batch_size)


def test_milestones_must_increase() -> None:
    with pytest.raises(FxscaleError, match=r"milestones must increase; found \(5, 3\)"):
        Recipe(9, 0.1, (5, 3))
