"""How a network is trained: SGD with momentum, the learning rate dropped at milestones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import SGD

from fxscale.errors import FxscaleError


@dataclass(frozen=True)
class Recipe:
    """One training schedule; every run that is compared follows the same one.

    **Attributes:**

    - `epochs`: passes over the training images, over all phases of a run together.
    - `learning_rate`: of the first epoch.
    - `milestones`: numbers of completed epochs after which the learning rate is multiplied by
      `gamma`. The paper's ResNet-34: 90 epochs, 0.1, dropped after 30 and 60.
    - `momentum`, `weight_decay`: of SGD.
    - `batch_size`: images per step; the last, incomplete batch of an epoch is dropped.
    """

    epochs: int
    learning_rate: float
    milestones: tuple[int, ...]
    gamma: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise FxscaleError(
                f"a recipe needs at least 1 epoch, 1 image per step and a positive learning rate; "
                f"found {self.epochs}, {self.batch_size}, {self.learning_rate}"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise FxscaleError(f"milestones must increase; found {self.milestones}")

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.learning_rate * self.gamma ** sum(epoch >= m for m in self.milestones)

    def optimizer(self, network: nn.Module) -> SGD:
        return SGD(
            network.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
