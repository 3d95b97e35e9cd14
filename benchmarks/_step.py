"""One training step of a network, by itself: forward, backward and optimizer on images of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._timing import WARM_UP, Step

Networks = Mapping[str, tuple[nn.Module, int]]
"""Name -> network and the size of its images."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """How a step is run. `bf16` means autocast with float32 weights.

    `graphed`: the kernels of the step are recorded in a CUDA graph and replayed, so that the device
    never waits for Python.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    batch_size: int = 16
    channels_last: bool = True
    compiled: bool = False
    repeats: int = 15
    graphed: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"


def training_step(network: nn.Module, size: int, settings: Settings) -> Step:
    """One step on the same random images `(N, 3, size, size)` and labels each time."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    images = images_of(size, settings)
    labels = torch.zeros(settings.batch_size, dtype=torch.long, device=settings.device)
    forward = torch.compile(network, dynamic=False) if settings.compiled else network
    network.train()

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(forward, images, labels, settings))
        optimizer.step()

    return _graphed(step) if settings.graphed else step


def _graphed(step: Step) -> Step:
    """The step, replayed from a CUDA graph: https://docs.pytorch.org/docs/stable/notes/cuda.html."""
    with aside():
        for _ in range(WARM_UP):
            step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(kept: Step = step) -> None:  # the graph reads and writes the memory of its tensors
        graph.replay()

    return replay


@contextmanager
def aside() -> Iterator[None]:
    """On a stream of its own, where what is to be recorded in a graph must have run before."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def loss_of(
    forward: Callable[[Tensor], Any], images: Tensor, labels: Tensor, settings: Settings
) -> Tensor:
    """Cross entropy of the main output, also of networks that return auxiliary ones as well."""
    with torch.autocast(
        settings.device.type, settings.dtype, enabled=settings.dtype != torch.float32
    ):
        output = forward(images)
        return F.cross_entropy(output if isinstance(output, Tensor) else output[0], labels)


def compared(
    target: nn.Module, pretrain: nn.Module, sizes: tuple[int, int], settings: Settings
) -> Networks:
    """Both on the device, and between them progressive resizing, if the target can do that."""
    target_size, pretrain_size = sizes
    networks = {"target": (placed(target, settings), target_size)}
    if accepts(target, pretrain_size, settings):
        networks["progressive"] = target, pretrain_size
    return networks | {"pretrain": (placed(pretrain, settings), pretrain_size)}


def accepts(network: nn.Module, size: int, settings: Settings) -> bool:
    """Whether the network runs on images of this size at all: the fact, not a guess at it."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(images_of(size, settings)[:1])
    except RuntimeError:
        return False
    finally:
        network.train(was_training)
    return True


def images_of(size: int, settings: Settings) -> Tensor:
    images = torch.randn(settings.batch_size, 3, size, size, device=settings.device)
    return images.contiguous(memory_format=settings.memory_format)


def placed(network: nn.Module, settings: Settings) -> nn.Module:
    network.to(settings.device, memory_format=settings.memory_format)  # type: ignore[call-overload]  # torch declares no memory_format here
    return network
