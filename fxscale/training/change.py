"""The change from one phase to the next: transition, moving average, BatchNorm, compilation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fxscale.batchnorm import batchnorms, reestimate_batchnorm
from fxscale.errors import FxscaleError
from fxscale.training.average import average_after_transition
from fxscale.training.devices import gathered, now
from fxscale.training.loading import Loader
from fxscale.training.phase import Phase, compile_now, optimizer_for, place, set_up, to_device
from fxscale.training.progress import PhaseChange
from fxscale.training.settings import Settings
from fxscale.training.steps import Stepper
from fxscale.transition import transition

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def change_phase(
    phase: Phase,
    number: int,
    network: nn.Module,
    epoch: int,
    *,
    before: float,
    fabric: Fabric,
    settings: Settings,
    train: Loader,
    test: Loader,
    stepper: Stepper,
) -> tuple[Phase, PhaseChange]:
    """From `phase` to phase `number`, whose network is `network`, after `epoch` epochs.

    Where that is the network of `phase` itself (progressive resizing), all that trains it goes on
    as it is; only BatchNorm is re-estimated at the new size.

    Every process makes this call, and ends with the same weights; that is checked. It depends on
    nothing but the weights and the settings, so a run that crashed in it repeats it.
    """
    started = now(fabric)
    if network is phase.network:
        entered = replace(phase, number=number, size=settings.size(number))
    else:
        entered = _enlarged(phase, number, network, fabric, settings)
    if settings.compile:
        # Or the same code at another size is compiled for any size, and the CUDA graphs of the
        # network before keep their memory.
        torch.compiler.reset()
    mapped = now(fabric)

    def batches() -> Iterator[Tensor]:
        """Of the coming epoch, at the new size."""
        micro = train.epoch(epoch, entered.size, last=settings.batchnorm_batches)
        return (to_device(batch.images, fabric, settings) for batch in micro)

    if settings.batchnorm_batches and batchnorms(entered.network):
        group = _all_processes(fabric)
        with fabric.autocast():
            reestimate_batchnorm(entered.network, batches(), group=group)
            if entered.average is not None:
                reestimate_batchnorm(entered.average.module, batches(), group=group)
    estimated = now(fabric)
    compile_seconds = compile_now(entered, fabric, settings, stepper.loss, test.evaluation_batches)
    after, _, _ = stepper.evaluate(entered, test.evaluation(entered.size))
    hashes = gathered(fabric, entered.state_hash())
    if len(set(hashes)) > 1:
        raise FxscaleError(
            f"the transition left different weights on the {len(hashes)} processes: "
            f"{len(set(hashes))} different hashes. Start again from the last checkpoint"
        )
    change = PhaseChange(
        epoch=epoch,
        phase=number,
        size=entered.size,
        mapping_seconds=mapped - started,
        batchnorm_seconds=estimated - mapped,
        compile_seconds=compile_seconds,
        before=before,
        after=after,
        state_hash=hashes[0],
    )
    return entered, change


def _enlarged(
    phase: Phase, number: int, network: nn.Module, fabric: Fabric, settings: Settings
) -> Phase:
    """A larger network with the weights, the average and the optimizer state of `phase`."""
    larger = place(network, fabric, settings)
    optimizer = optimizer_for(larger, settings)
    transition(phase.network, larger, optimizer=phase.optimizer, new_optimizer=optimizer)
    average = None
    if phase.average is not None:
        average = average_after_transition(phase.average, phase.network, larger, settings.average)
    return set_up(number, larger, optimizer, fabric, settings, average)


def _all_processes(fabric: Fabric) -> dist.ProcessGroup | None:
    return dist.group.WORLD if fabric.world_size > 1 else None
