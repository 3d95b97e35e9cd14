"""One optimizer step, and one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from fxscale.errors import FxscaleError
from fxscale.training.devices import send_buffers, total
from fxscale.training.loading import Batch
from fxscale.training.losses import Loss
from fxscale.training.phase import Phase, to_device
from fxscale.training.randomness import MIXUP, STEP, derive, drawing
from fxscale.training.settings import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Stepper:
    """Optimizer steps by one run's settings."""

    def __init__(self, fabric: Fabric, settings: Settings, classes: int) -> None:
        self.fabric = fabric
        self.settings = settings
        self.loss = Loss(classes, settings.label_smoothing, settings.auxiliary_weight)
        self._mix = _mixup(settings.mixup, classes) if settings.mixup else None

    def step(self, phase: Phase, batches: Sequence[Batch], epoch: int, step: int) -> Tensor:
        """Trains on the micro-batches of one step; their mean loss on this process.

        Gradients are averaged over micro-batches and processes, so that a step is that of one
        process with one large batch.
        """
        place = (epoch, step, self.fabric.global_rank)
        torch.manual_seed(derive(self.settings.seed, STEP, *place))  # dropout and the like
        phase.wrapped_optimizer.zero_grad()
        loss = torch.zeros((), device=self.fabric.device)
        for number, batch in enumerate(batches, start=1):
            images = to_device(batch.images, self.fabric, self.settings)
            labels = batch.labels.to(self.fabric.device, non_blocking=True)
            if self._mix is not None:
                with drawing(derive(self.settings.seed, MIXUP, *place, number)):
                    images, labels = self._mix(images, labels)
            waiting = number < len(batches)
            with self.fabric.no_backward_sync(phase.wrapped, enabled=waiting):
                part = self.loss(phase.wrapped(images), labels) / len(batches)
                self.fabric.backward(part)
            loss += part.detach()
        if self.settings.clip_norm is not None:
            self.fabric.clip_gradients(
                phase.wrapped,
                phase.wrapped_optimizer,
                max_norm=self.settings.clip_norm,
                error_if_nonfinite=False,  # told by the loss
            )
        phase.wrapped_optimizer.step()
        if phase.average is not None:
            phase.average.update_parameters(phase.network)
        return loss

    def evaluate(self, phase: Phase, batches: Iterable[Batch]) -> tuple[float, float, list[str]]:
        """Accuracy (0 to 1) and loss over all processes, and the files that were unreadable here.

        Every process takes its own number of batches: nothing is exchanged but the sums.
        """
        network = phase.evaluated
        send_buffers(self.fabric, list(phase.result.buffers()))
        was_training = network.training
        network.eval()
        sums = torch.zeros(3, device=self.fabric.device)
        faults: list[str] = []
        try:
            with torch.no_grad(), self.fabric.autocast():
                for batch in batches:
                    faults += batch.faults
                    if not len(batch.labels):
                        continue
                    images = to_device(batch.images, self.fabric, self.settings)
                    logits = self.loss.scores(network(images)).float()
                    labels = batch.labels.to(self.fabric.device)
                    right = (logits.argmax(1) == labels).sum()
                    loss = F.cross_entropy(logits, labels, reduction="sum")
                    sums += torch.stack([right.float(), loss, torch.ones_like(loss) * len(labels)])
        finally:
            network.train(was_training)
        correct, loss_sum, count = total(self.fabric, sums).tolist()
        if not count:
            raise FxscaleError("not one test image can be read")
        return correct / count, loss_sum / count, faults


def _mixup(alpha: float, classes: int) -> Mix:
    from torchvision.transforms import v2

    mix: Mix = v2.MixUp(alpha=alpha, num_classes=classes)
    return mix
