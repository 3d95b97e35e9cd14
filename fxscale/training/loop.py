"""The reference training loop: thin, on Lightning Fabric, the same for every run compared.

A run is a sequence of phases. Each phase is a `Stage`: one network, its optimizer and the image
size it trains at. `Trainer.fit` trains a stage for some epochs; `Trainer.upscale` goes from the
pre-train network to the target network; `Trainer.enlarge` keeps the network and goes to larger
images (progressive resizing).

**What is timed.** Forward, backward, optimizer step and augmentation of every training epoch, and
each change of network: mapping the weights, carrying the momentum, re-estimating BatchNorm.
Evaluation is not timed, nor is resizing the images (once per resolution, before the first epoch).

**What is random.** Order and augmentation of an epoch depend on the seed and the number of the
epoch alone, so a run that goes on from another run's epoch trains exactly as if it had trained
that epoch itself.

This needs the `train` extra (`lightning_fabric`, which both `lightning-fabric` and `lightning`
install).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from fxscale.batchnorm import reestimate_batchnorm
from fxscale.training.data import Augmentation, ImageSet
from fxscale.training.devices import PRECISION
from fxscale.training.extra import require
from fxscale.training.recipe import Recipe
from fxscale.training.settings import Precision
from fxscale.transition import transition

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BATCHNORM_BATCHES = 20


@dataclass(frozen=True)
class EpochRecord:
    """One training epoch, counted from 1. `accuracy` is on the test images, from 0 to 1."""

    epoch: int
    phase: str
    size: int
    seconds: float
    learning_rate: float
    train_loss: float
    accuracy: float


@dataclass(frozen=True)
class Change:
    """Accuracy around a change of network or image size, on the test images, from 0 to 1.

    **Attributes:**

    - `epoch`: epochs trained before it.
    - `seconds`: of the change itself, without the evaluations.
    - `before`: of the smaller network at the smaller size.
    - `after`: right after, not one step trained, BatchNorm's running statistics as they were.
    - `reestimated`: the same with BatchNorm re-estimated on training batches of the new size.
    """

    epoch: int
    seconds: float
    before: float
    after: float
    reestimated: float


class Observer:
    """Told what the loop does, for progress bars. This one does nothing."""

    def step(self) -> None:
        """A training step is done."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is trained and evaluated."""


@dataclass
class Stage:
    """A network in training. `wrapped` is what Fabric runs, `network` the module itself."""

    phase: str
    size: int
    network: nn.Module
    optimizer: Optimizer
    wrapped: nn.Module
    wrapped_optimizer: Optimizer


def single_device(precision: Precision = "fp32") -> Fabric:
    """Fabric on one device: the GPU where there is one, else the CPU."""
    require("lightning_fabric")
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="auto", devices=1, precision=PRECISION[precision])
    fabric.launch()
    return fabric


class Trainer:
    """Trains networks on one `ImageSet` by one `Recipe` and one seed.

    **Arguments:**

    - `images`: at the target network's size; smaller sizes are made of it, once each.
    - `fabric`: a launched `Fabric`; `None` (the default) takes one device. With several processes
      each trains on its own share of the images, `batch_size` at a time.
    - `observer`: told of every step and epoch.
    """

    evaluation_batch = 250

    def __init__(
        self,
        images: ImageSet,
        recipe: Recipe,
        *,
        seed: int,
        augmentation: Augmentation | None = None,
        fabric: Fabric | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.recipe = recipe
        self.seed = seed
        self.augmentation = augmentation or Augmentation()
        self.fabric = fabric or single_device()
        self.observer = observer or Observer()
        self._original = images
        self._sizes: dict[int, ImageSet] = {}

    def images(self, size: int) -> ImageSet:
        """The images at `size`, on the training device, resized at the first call."""
        if size not in self._sizes:
            self._sizes[size] = self._original.resized(size).to(self.fabric.device)
        return self._sizes[size]

    @property
    def steps_per_epoch(self) -> int:
        share = len(self._original.train_labels) // self.fabric.world_size
        return share // self.recipe.batch_size

    def stage(self, phase: str, network: nn.Module, size: int) -> Stage:
        """Puts a network and a fresh optimizer under Fabric, at an image size."""
        network.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares no memory_format here
        return self._stage(phase, network, size, self.recipe.optimizer(network))

    def _stage(self, phase: str, network: nn.Module, size: int, optimizer: Optimizer) -> Stage:
        self._warm_up(network, size)
        wrapped, wrapped_optimizer = self.fabric.setup(network, optimizer)
        return Stage(phase, size, network, optimizer, wrapped, wrapped_optimizer)

    def _warm_up(self, network: nn.Module, size: int) -> None:
        """One step of a copy: no epoch's time includes what libraries do only once."""
        copy = deepcopy(network).train()
        images = self.images(size)
        with torch.random.fork_rng():
            some = slice(self.recipe.batch_size)
            loss = F.cross_entropy(copy(images.train_images[some]), images.train_labels[some])
        torch.autograd.backward(loss)

    def fit(self, stage: Stage, epochs: range) -> list[EpochRecord]:
        """Trains the epochs, counted from 0, and evaluates after each."""
        records = []
        images = self.images(stage.size)
        for epoch in epochs:
            rate = self.recipe.rate(epoch)
            for group in stage.optimizer.param_groups:
                group["lr"] = rate
            started = self._now()
            loss = self._train_epoch(stage, images, epoch)
            seconds = self._now() - started
            accuracy = self.evaluate(stage)
            record = EpochRecord(epoch + 1, stage.phase, stage.size, seconds, rate, loss, accuracy)
            self.observer.epoch(record)
            records.append(record)
        return records

    def _train_epoch(self, stage: Stage, images: ImageSet, epoch: int) -> float:
        stage.wrapped.train()
        total = torch.zeros((), device=self.fabric.device)
        for batch, labels in self._batches(images, epoch):
            total += self.step(stage, batch, labels)
            self.observer.step()
        mean = self.fabric.all_reduce(total / self.steps_per_epoch)  # over the processes
        assert isinstance(mean, Tensor)  # a tensor in, a tensor out
        return float(mean)

    def step(self, stage: Stage, batch: Tensor, labels: Tensor) -> Tensor:
        """One training step on a batch `(N, C, S, S)` and its labels `(N,)`; the loss."""
        stage.wrapped_optimizer.zero_grad()
        loss = F.cross_entropy(stage.wrapped(batch), labels)
        self.fabric.backward(loss)
        stage.wrapped_optimizer.step()
        return loss.detach()

    def _batches(self, images: ImageSet, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented batches of one epoch, `(N, C, S, S)` and `(N,)`, this process's share."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order = torch.randperm(len(images.train_labels), generator=generator)
        order = order[self.fabric.global_rank :: self.fabric.world_size]
        for step in range(self.steps_per_epoch):
            start = step * self.recipe.batch_size
            chosen = order[start : start + self.recipe.batch_size].to(self.fabric.device)
            batch = self.augmentation(images.train_images[chosen], generator)
            yield batch, images.train_labels[chosen]

    def evaluate(self, stage: Stage) -> float:
        """Share of the test images that the network gets right, in evaluation mode."""
        images = self.images(stage.size)
        was_training = stage.network.training
        stage.wrapped.eval()
        correct = 0
        try:
            with torch.no_grad():
                for start in range(0, len(images.test_labels), self.evaluation_batch):
                    part = slice(start, start + self.evaluation_batch)
                    answers = stage.wrapped(images.test_images[part]).argmax(1)
                    correct += int((answers == images.test_labels[part]).sum())
        finally:
            stage.wrapped.train(was_training)
        return correct / len(images.test_labels)

    def upscale(
        self, stage: Stage, target: nn.Module, *, size: int, epoch: int
    ) -> tuple[Stage, Change]:
        """From the pre-train network to `target` at `size`, after `epoch` epochs.

        Weights and momentum go through `fxscale.transition`, then BatchNorm is re-estimated.
        """
        before = self.evaluate(stage)
        self.images(size)  # resized outside the time measured
        started = self._now()
        target.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares no memory_format here
        optimizer = self.recipe.optimizer(target)
        transition(stage.network, target, optimizer=stage.optimizer, new_optimizer=optimizer)
        seconds = self._now() - started
        larger = self._stage("target", target, size, optimizer)
        return larger, self._settle(larger, epoch, seconds, before)

    def enlarge(self, stage: Stage, *, size: int, epoch: int) -> tuple[Stage, Change]:
        """Progressive resizing: the same network and optimizer go on with larger images."""
        before = self.evaluate(stage)
        self._warm_up(stage.network, size)
        larger = Stage(
            "target",
            size,
            stage.network,
            stage.optimizer,
            stage.wrapped,
            stage.wrapped_optimizer,
        )
        return larger, self._settle(larger, epoch, 0.0, before)

    def _settle(self, stage: Stage, epoch: int, seconds: float, before: float) -> Change:
        """Evaluates a stage that was just entered, without and with re-estimated BatchNorm."""
        after = self.evaluate(stage)
        started = self._now()
        batches = self._batches(self.images(stage.size), epoch)
        reestimate_batchnorm(stage.network, islice(batches, BATCHNORM_BATCHES))
        seconds += self._now() - started
        return Change(epoch, seconds, before, after, self.evaluate(stage))

    def _now(self) -> float:
        """Seconds on the monotonic clock, once the device has done what it was given."""
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)
        return time.perf_counter()
