"""How much memory a training step takes, and how many images fit into a given amount.

On CUDA it is measured: the most that torch's allocator had handed out during a step, beyond what
it had before the network was put on the device; kernels' workspaces count, what the driver and the
context take does not.

CPUs keep no such record, so it is counted: the bytes of parameters, buffers, gradients and
optimizer state, and of every tensor that autograd saves for the backward pass, each storage once.
That is what must be there whatever the kernels do: temporaries are missing; that the first
gradients come when the last activations are not needed any more is not made use of. The network
runs on fake tensors, so nothing is computed and the figure is the same on every machine. Without
`torch.compile`, which saves other tensors.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from math import inf, isfinite

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from benchmarks._step import Settings, images_of, loss_of, placed, training_step

NOTE = {
    "cpu": "Memory is counted: parameters, buffers, gradients, optimizer state and all tensors "
    "that autograd saves\nfor the backward pass, each storage once, without temporaries and "
    "without torch.compile.",
    "cuda": "Memory is torch.cuda.max_memory_allocated over a step, each network alone on the "
    "device.",
}


def step_memory(network: nn.Module, size: int, settings: Settings) -> float:
    """Bytes that a training step takes at most; infinite where the device has too few."""
    if settings.device.type == "cuda":
        return _measured(network, size, settings)
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        fake = deepcopy(placed(network, settings))
    with mode:
        return counted(fake, size, settings)


def counted(network: nn.Module, size: int, settings: Settings) -> int:
    """Bytes that a step of this network, fake or real, holds. Takes that step."""
    # Held on to: a storage that is freed could come again under the same address.
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    network.train()
    labels = torch.zeros(settings.batch_size, dtype=torch.long, device=settings.device)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(network, images_of(size, settings), labels, settings)
    torch.autograd.backward(loss)
    optimizer.step()
    for tensor in (*network.parameters(), *network.buffers()):
        keep(tensor.detach())
        if tensor.grad is not None:
            keep(tensor.grad)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                keep(value)
    return sum(storage.nbytes() for storage in storages.values())


def _measured(network: nn.Module, size: int, settings: Settings) -> float:
    device = settings.device
    settings = replace(settings, graphed=False)  # a graph's memory lies in a pool of its own, whole
    gc.collect()
    torch.cuda.empty_cache()
    if settings.compiled:
        torch.compiler.reset()  # so many batch sizes would be too many for its cache
    before = torch.cuda.memory_allocated(device)
    try:
        step = training_step(placed(deepcopy(network), settings), size, settings)
        step()  # makes the optimizer's state, and chooses kernels
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    except torch.OutOfMemoryError:
        return inf


def largest_batch(network: nn.Module, size: int, settings: Settings, budget: float) -> int:
    """The most images a step of which takes no more than `budget` bytes; 0 if one is too many.

    On CUDA in multiples of 8, which its kernels like best and which are found sooner.
    """
    multiple = 8 if settings.device.type == "cuda" else 1

    def memory(multiples: int) -> float:
        return step_memory(network, size, replace(settings, batch_size=multiple * multiples))

    return multiple * _largest(memory, max(1, settings.batch_size // multiple), budget)


def _largest(memory: Callable[[int], float], start: int, budget: float) -> int:
    """False position: memory grows nearly in proportion to the images, so few steps are enough."""
    low, low_bytes, high = 0, 0.0, start
    while (high_bytes := memory(high)) <= budget:
        low, low_bytes, high = high, high_bytes, 2 * high
    while high - low > 1:
        share = (budget - low_bytes) / (high_bytes - low_bytes) if isfinite(high_bytes) else 0.5
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        middle_bytes = memory(middle)
        if middle_bytes <= budget:
            low, low_bytes = middle, middle_bytes
        else:
            high, high_bytes = middle, middle_bytes
    return low
