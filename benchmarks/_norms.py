"""Norms of kernels. Behind BatchNorm they change nothing but how far a training step goes.

There a step turns a kernel by the learning rate over its norm squared, and enlarged kernels have a
smaller norm. `NormsKept` takes this out of a transition, `NormsDivided` puts it into a run without
one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from fxscale.training import Change, EpochRecord, Stage, Trainer


def with_norms(pretrain: Stage, stage: Stage, factor: float) -> None:
    """Kernels that were enlarged get `factor` times their norm before, and momentum to match.

    For networks whose convolutions are all followed by BatchNorm, which takes the factor out again.
    """
    before = dict(pretrain.network.named_parameters())
    for name, weight in stage.network.named_parameters():
        if weight.dim() == 4 and weight.shape != before[name].shape:
            scale_kernel(
                stage, weight, factor * float(before[name].detach().norm() / weight.detach().norm())
            )


def scale_kernel(stage: Stage, weight: nn.Parameter, factor: float) -> None:
    weight.detach().mul_(factor)
    stage.optimizer.state[weight]["momentum_buffer"].mul_(factor)


class NormsKept(Trainer):
    """Enlarged kernels have the norms of the pre-train network's."""

    def upscale(
        self, stage: Stage, target: nn.Module, *, size: int, epoch: int
    ) -> tuple[Stage, Change]:
        larger, change = super().upscale(stage, target, size=size, epoch=epoch)
        with_norms(stage, larger, 1.0)
        return larger, change


class NormsDivided(Trainer):
    """Divides the norms of the kernels called `names` by `divisor` after `after` epochs."""

    def __init__(
        self, *args: Any, names: Collection[str], divisor: float, after: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.names, self.divisor, self.after = names, divisor, after

    def fit(self, stage: Stage, epochs: range) -> list[EpochRecord]:
        if not epochs.start < self.after <= epochs.stop:
            return super().fit(stage, epochs)
        records = super().fit(stage, range(epochs.start, self.after))
        for name, weight in stage.network.named_parameters():
            if name in self.names:
                scale_kernel(stage, weight, 1 / self.divisor)
        return records + super().fit(stage, range(self.after, epochs.stop))
