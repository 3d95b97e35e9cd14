"""Training loops as `fxscale train` runs them, one short epoch at a time.

An epoch loads images (`fxscale.training.loading`), augments them, and takes optimizer steps
(`fxscale.training.steps`) on Lightning Fabric; the loss is read every `LOG_EVERY` steps. Evaluation
and checkpoints, which are not training time there either, are left out. The workers of a loader
live on from epoch to epoch, but begin each with nothing at hand, as they do in a real one: the
fewer steps an epoch has, the more of it is the wait for the first images. Without a source, all
steps are taken on one batch of noise that lies on the device: the loop without loading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import count, repeat

import torch
from torch import nn

from benchmarks._step import Settings, images_of
from benchmarks._timing import Step
from fxscale.errors import FxscaleError
from fxscale.training.devices import launch
from fxscale.training.loading import Batch, Loader
from fxscale.training.phase import compile_now, optimizer_for, place, set_up
from fxscale.training.pictures import Source
from fxscale.training.settings import Settings as TrainingSettings
from fxscale.training.steps import Stepper

LOG_EVERY = 20
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Loops:
    """Epochs of `steps` optimizer steps over the images of `source`, or on one batch."""

    source: Source | None
    steps: int
    workers: int
    settings: Settings
    _loaders: dict[int, Loader] = field(default_factory=dict)

    def epoch(self, network: nn.Module, size: int, batch_size: int) -> Step:
        """An epoch of `network` on images of `size` pixels, other ones each time it is called."""
        settings = self._training_settings(size, batch_size)
        batches = self._batches(settings)
        fabric = launch(settings, self.settings.device.type)
        network = place(network, fabric, settings)
        phase = set_up(0, network, optimizer_for(network, settings), fabric, settings)
        stepper = Stepper(fabric, settings, len(self.source.classes) if self.source else 1)
        # Or the same code at another size is compiled for any size, which is slower.
        with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
            compile_now(phase, fabric, settings, stepper.loss, [])
        numbers = count()

        def epoch() -> None:
            phase.wrapped.train()
            number, loss = next(numbers), torch.zeros((), device=fabric.device)
            for step, batch in enumerate(batches(number), start=1):
                for group in phase.optimizer.param_groups:
                    group["lr"] = LEARNING_RATE
                loss += stepper.step(phase, [batch], number, step - 1)
                if step % LOG_EVERY == 0 or step == self.steps:
                    float(loss)

        return epoch

    def _training_settings(self, size: int, batch_size: int) -> TrainingSettings:
        return TrainingSettings(
            model="",  # given
            data="",
            target_size=size,  # of the only phase there is
            batch_size=batch_size,
            precision=self.settings.precision,
            channels_last=self.settings.channels_last,
            compile=self.settings.compiled,
            workers=self.workers,
        )

    def _batches(self, settings: TrainingSettings) -> Callable[[int], Iterable[Batch]]:
        """Of an epoch, by its number."""
        size = settings.target_size
        if self.source is None:
            images = images_of(size, replace(self.settings, batch_size=settings.batch_size))
            labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
            return lambda number: repeat(Batch(images, labels, ()), self.steps)
        loader = self._loader(self.source, settings)
        return lambda number: loader.epoch(number, size, last=self.steps)

    def _loader(self, source: Source, settings: TrainingSettings) -> Loader:
        """One for every batch size: as in a real run, networks of several sizes share it."""
        size = settings.batch_size
        if size not in self._loaders:
            self._loaders[size] = Loader(
                source.train,
                seed=settings.seed,
                batch_size=size,
                workers=settings.workers,
                pin_memory=self.settings.device.type == "cuda",
            )
        loader = self._loaders[size]
        if loader.steps < self.steps:
            raise FxscaleError(
                f"{source.name}: {len(source.train)} images to train on are fewer than "
                f"{self.steps} batches of {size}. Take fewer steps (--loop-steps) or smaller "
                f"batches (--batch-size)"
            )
        return loader
