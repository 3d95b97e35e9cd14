"""Devices and processes, by Lightning Fabric."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from fxscale.errors import FxscaleError
from fxscale.training.extra import require
from fxscale.training.settings import Precision, Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISION: dict[Precision, Literal["32-true", "bf16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
}
"""What Fabric calls them."""


def launch(settings: Settings, accelerator: str = "auto") -> Fabric:
    """Fabric for the processes that `torchrun` started, or for one device without it.

    **Arguments:**

    - `accelerator`: `"auto"` (a GPU where there is one), `"cpu"`, `"cuda"`.

    **Raises:** `FxscaleError` where there is no such device, or it lacks what settings ask for.
    """
    require("lightning_fabric")
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.strategy import Strategy

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(processes)))
    strategy: str | Strategy = "auto"
    if processes > 1:
        strategy = DDPStrategy(timeout=timedelta(seconds=settings.timeout))
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=local,
            num_nodes=max(1, processes // local),
            strategy=strategy,
            precision=PRECISION[settings.precision],
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise FxscaleError(f"cannot train on {accelerator!r} devices: {error}") from error
    if settings.sync_batchnorm and processes > 1 and fabric.device.type == "cpu":
        raise FxscaleError(
            "torch's SyncBatchNorm exchanges statistics between GPUs alone: train on GPUs, or "
            "without sync_batchnorm (--sync-batchnorm)"
        )
    if processes > 1:
        # Fabric does this for NCCL alone; gloo's threads may abort a process that ends with them.
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def reproducible(settings: Settings) -> Iterator[None]:
    """Seeds torch and, if asked for, allows deterministic algorithms alone; restores both.

    If not, cuDNN tries its kernels and keeps the fastest: a phase's batches are of one shape.
    """
    was, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        try:
            torch.backends.cudnn.benchmark = not settings.deterministic
            if settings.deterministic:
                # cuBLAS reads this when it is first used.
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.use_deterministic_algorithms(was)
            torch.backends.cudnn.benchmark = benchmark


def total(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum over all processes."""
    result = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(result, Tensor)  # a tensor in, a tensor out
    return result


def gathered(fabric: Fabric, value: str) -> list[str]:
    """A text of every process, on every process."""
    if fabric.world_size == 1:
        return [value]
    values: list[str] = [""] * fabric.world_size
    dist.all_gather_object(values, value)
    return values


def send_buffers(fabric: Fabric, buffers: list[Tensor]) -> None:
    """Buffers of the first process to all: BatchNorm's statistics are else each process's own."""
    if fabric.world_size > 1:
        for buffer in buffers:
            dist.broadcast(buffer, src=0)


def gpu_name(fabric: Fabric) -> str | None:
    """Of the GPU that this process trains on, if it is one."""
    return torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else None


def now(fabric: Fabric) -> float:
    """Seconds on the monotonic clock, once the device has done what it was given."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return time.perf_counter()
