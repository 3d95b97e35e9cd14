"""The training loop of the experiments, its steps replayed from CUDA graphs.

A step of a small network ends on the device before Python has launched its kernels; replayed, its
epochs take as long as their kernels. The same kernels run on the same images: nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks._step import aside
from benchmarks._timing import WARM_UP
from fxscale.training import Stage, Trainer

TrainingStep = Callable[[Tensor, Tensor], Tensor]
"""From a batch and its labels to the loss."""


class Replayed:
    """A step recorded on one batch; it reads images from, and writes the loss to, fixed memory."""

    def __init__(self, step: TrainingStep, batch: Tensor, labels: Tensor) -> None:
        self.batch, self.labels = batch.clone(), labels.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = step(self.batch, self.labels)

    def __call__(self, batch: Tensor, labels: Tensor) -> Tensor:
        self.batch.copy_(batch)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss.clone()


@dataclass
class _Steps:
    """Those of a stage at one learning rate, which a graph holds as a constant."""

    stage: Stage
    rate: float
    taken: int = 0
    replayed: Replayed | None = None


class GraphedTrainer(Trainer):
    """`Trainer` on one GPU. The first steps of a stage, and of a learning rate, run as they are."""

    evaluation_batch = 1000
    _steps: _Steps | None = None

    def step(self, stage: Stage, batch: Tensor, labels: Tensor) -> Tensor:
        rate = float(stage.optimizer.param_groups[0]["lr"])
        steps = self._steps
        if steps is None or steps.stage is not stage or steps.rate != rate:
            steps = self._steps = _Steps(stage, rate)
        steps.taken += 1
        step = super().step
        if steps.taken <= WARM_UP:
            with aside():
                return step(stage, batch, labels)
        if steps.replayed is None:
            steps.replayed = Replayed(lambda *given: step(stage, *given), batch, labels)
        return steps.replayed(batch, labels)
