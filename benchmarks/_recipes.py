"""Recipes whose learning rate leaves the schedule for some epochs."""

from __future__ import annotations

from dataclasses import dataclass

from fxscale.training import Recipe


@dataclass(frozen=True)
class FactoredRecipe(Recipe):
    """The learning rate is multiplied by `factor` in the epochs `first` to `last`."""

    factor: float = 1.0
    first: int = 0
    last: int = 0

    def rate(self, epoch: int) -> float:
        rate = super().rate(epoch)
        return rate * self.factor if self.first <= epoch < self.last else rate


@dataclass(frozen=True)
class RaisedRecipe(Recipe):
    """The learning rate is the first one in the epochs `first` to `last`, drops or not."""

    first: int = 0
    last: int = 0

    def rate(self, epoch: int) -> float:
        return self.learning_rate if self.first <= epoch < self.last else super().rate(epoch)
