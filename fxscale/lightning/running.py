"""What the transition asks of a running `Trainer`, as far as Lightning lets one ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from fxscale.errors import FxscaleError
from fxscale.wrappers import unwrap


def require_whole_parameters(trainer: Trainer) -> None:
    strategy = trainer.strategy
    whole = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
    if not whole or isinstance(strategy, DeepSpeedStrategy):
        raise FxscaleError(
            f"{type(strategy).__name__} may split parameters over devices, which the transition "
            f"needs whole: train on one device or with strategy='ddp'"
        )


def prepare(new: nn.Module, old: nn.Module, trainer: Trainer, pl_module: LightningModule) -> None:
    """Device, precision, mode and frozen layers of the network that trained so far."""
    new.to(pl_module.device)
    sync = getattr(trainer.strategy, "_layer_sync", None)
    if sync is not None:
        sync.apply(new)
    trainer.precision_plugin.convert_module(new)
    new.train(old.training)
    frozen = {name for name, p in unwrap(old).named_parameters() if not p.requires_grad}
    for name, parameter in unwrap(new).named_parameters():
        parameter.requires_grad_(name not in frozen)


def reload_loaders(trainer: Trainer) -> None:
    """Asks for the loaders anew, as Lightning's own batch-size finder does."""
    loop = trainer.fit_loop
    loop._combined_loader = None
    loop.epoch_loop.val_loop._combined_loader = None  # set up when validation runs next
    loop.setup_data()
    assert loop._combined_loader is not None  # set up
    for loader in loop._combined_loader.flattened:
        _set_sampler_epoch(loader, trainer.current_epoch)


def batches_of(trainer: Trainer, pl_module: LightningModule, count: int) -> Iterator[Any]:
    """Training batches as `training_step` gets them."""
    precision = trainer.precision_plugin
    loader = CombinedLoader(trainer.train_dataloader, "max_size_cycle")
    for batch, _, _ in islice(loader, count):
        batch = precision.convert_input(batch)
        batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
        yield trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def begin_again(trainer: Trainer) -> None:
    """Persistent workers serve one iterator: the epoch's own begins anew after another one."""
    loop = trainer.fit_loop
    assert loop._combined_loader is not None
    assert loop._data_fetcher is not None
    if any(
        getattr(loader, "persistent_workers", False) for loader in loop._combined_loader.flattened
    ):
        iter(loop._data_fetcher)
