"""A phase of training: one network at one image size, with all that trains it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from fxscale.training.average import averaged
from fxscale.training.checkpoint import Checkpoint, digest, flattened, restored
from fxscale.training.losses import Loss
from fxscale.training.settings import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer


@dataclass
class Phase:
    """A network in training.

    **Attributes:**

    - `number`: 0 for the smallest network; `size`: of its images.
    - `network`, `optimizer`: as torch knows them; `wrapped`, `wrapped_optimizer`: as Fabric runs
      them, compiled and over all processes.
    - `average`: the moving average of its weights, if there is one.
    - `evaluated`: what is evaluated, the average where there is one, compiled where that is asked.
    """

    number: int
    size: int
    network: nn.Module
    optimizer: Optimizer
    wrapped: _FabricModule
    wrapped_optimizer: _FabricOptimizer
    average: AveragedModel | None
    evaluated: nn.Module

    @property
    def result(self) -> nn.Module:
        """The network whose weights count: the average where there is one."""
        module: nn.Module = self.network if self.average is None else self.average.module
        return module

    def contents(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Everything that a checkpoint must hold of it: tensors, and a document."""
        tensors, optimizer = flattened(self.optimizer.state_dict())
        named = {f"optimizer.{key}": value for key, value in tensors.items()}
        named |= {f"network.{key}": value for key, value in self.network.state_dict().items()}
        if self.average is not None:
            named |= {f"average.{key}": v for key, v in self.average.state_dict().items()}
        return named, {"phase": self.number, "optimizer": optimizer}

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes on where `contents` was taken."""
        self.network.load_state_dict(checkpoint.part("network"))
        self.optimizer.load_state_dict(
            restored(checkpoint.part("optimizer"), checkpoint.document["optimizer"])
        )
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    # Laid out in memory like the parameter, as it was.
                    state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self.average is not None:
            self.average.load_state_dict(checkpoint.part("average"))

    def state_hash(self) -> str:
        """SHA-256 of the weights and buffers."""
        return digest(self.network.state_dict())


def place(network: nn.Module, fabric: Fabric, settings: Settings) -> nn.Module:
    """On the device, with the memory format and the BatchNorm that were asked for."""
    if settings.sync_batchnorm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    network.to(fabric.device)
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)
    return network


def optimizer_for(network: nn.Module, settings: Settings) -> Optimizer:
    """A fresh one. Learning rate and weight decay are set before every epoch."""
    if settings.optimizer == "adamw":
        return AdamW(network.parameters())
    return SGD(network.parameters(), lr=1.0, momentum=settings.momentum)


def set_up(
    number: int,
    network: nn.Module,
    optimizer: Optimizer,
    fabric: Fabric,
    settings: Settings,
    average: AveragedModel | None = None,
) -> Phase:
    """Wraps a network that is in place, and its optimizer, for training."""
    if average is None and settings.average:
        average = averaged(network, settings.average)
    trained: nn.Module = network
    evaluated: nn.Module = network if average is None else average.module
    if settings.compile:
        mode = compile_mode(fabric, settings)
        # Fabric compiles anew around what distributes the network.
        trained, evaluated = (torch.compile(n, mode=mode) for n in (network, evaluated))  # type: ignore[assignment]  # compiled, it still is a Module
    wrapped, wrapped_optimizer = fabric.setup(trained, optimizer)
    size = settings.size(number)
    return Phase(number, size, network, optimizer, wrapped, wrapped_optimizer, average, evaluated)


def compile_mode(fabric: Fabric, settings: Settings) -> Literal["default", "reduce-overhead"]:
    """What `torch.compile` makes of a network: on one GPU CUDA graphs, which are replayed.

    Without them a pre-train network waits for Python, its kernels are that short. Not where
    gradients are accumulated: the second replay would write where the first one left its own.
    """
    if fabric.device.type == "cuda" and fabric.world_size == settings.accumulate == 1:
        return "reduce-overhead"
    return "default"


def compile_now(
    phase: Phase,
    fabric: Fabric,
    settings: Settings,
    loss: Loss,
    evaluation_batches: Sequence[int],
) -> float:
    """Compiles for training and for evaluation; returns the seconds that it took.

    That is a first step (without the optimizer's part) and a first evaluation, on noise, for every
    number of images that an evaluation's batches have. Without it the first steps would take that
    time, and spoil what is measured of them. A CUDA graph is recorded when it is called the second
    time, and replayed from the third on. Nothing of the network's state changes.
    """
    if not settings.compile:
        return 0.0
    started = time.perf_counter()
    micro = settings.batch_size // settings.accumulate // fabric.world_size

    def noise(count: int) -> Tensor:
        return to_device(torch.randn(count, 3, phase.size, phase.size), fabric, settings)

    labels = torch.zeros(micro, dtype=torch.int64, device=fabric.device)
    calls = 3 if compile_mode(fabric, settings) == "reduce-overhead" else 1
    with torch.random.fork_rng(), _buffers_kept(phase.network):
        phase.wrapped.train()
        for _ in range(calls):
            fabric.backward(loss(phase.wrapped(noise(micro)), labels))
            phase.optimizer.zero_grad()
        phase.evaluated.eval()
        with torch.no_grad(), fabric.autocast():
            for count in evaluation_batches:
                for _ in range(calls):
                    phase.evaluated(noise(count))
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return time.perf_counter() - started


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def to_device(images: Tensor, fabric: Fabric, settings: Settings) -> Tensor:
    """A batch of images on the device, in the memory format that was asked for."""
    layout = torch.channels_last if settings.channels_last else torch.preserve_format
    return images.to(fabric.device, non_blocking=True, memory_format=layout)
