"""Lightning: the module as it is without fxscale, and one callback.

The run can be cut off anywhere and called again: it resumes from its last checkpoint, before the
transition or after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxscale
from fxscale.lightning import Transition
from fxscale.training import SmallResNet, noisy_digits


class Digits(L.LightningDataModule):
    """Images of `size`, which the callback sets."""

    size: tuple[int, ...] = (40, 40)

    def __init__(self, images: int = 1000, batch_size: int = 50) -> None:
        super().__init__()
        self.images, self.batch_size = images, batch_size
        self.digits = noisy_digits(40)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.digits.train_images, self.digits.train_labels, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.digits.test_images, self.digits.test_labels, shuffle=False)

    def loader(self, images: Tensor, labels: Tensor, *, shuffle: bool) -> DataLoader[Any]:
        images, labels = images[: self.images], labels[: self.images]
        resized = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return DataLoader(TensorDataset(resized, labels), self.batch_size, shuffle=shuffle)


class Classifier(L.LightningModule):
    def __init__(self, network: nn.Module, epochs: int) -> None:
        super().__init__()
        self.network, self.epochs = network, epochs

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        hits = self.network(batch[0]).argmax(1) == batch[1]
        self.log("accuracy", hits.float().mean(), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def train(
    folder: str | Path = "lightning-run",
    *,
    epochs: int = 6,
    resize_after: int = 3,
    more_callbacks: Sequence[Callback] = (),
    **data: int,
) -> Classifier:
    """The trained module."""
    L.seed_everything(0, verbose=False)
    target = SmallResNet(1, 10, widths=(8, 16))
    small = fxscale.downscale(target, 28, target_size=40)
    module = Classifier(small, epochs)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        callbacks=[
            Transition(target, at=resize_after, resolution="size"),
            EMAWeightAveraging(decay=0.9),
            ModelCheckpoint(
                folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
            ),
            *more_callbacks,
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    last = Path(folder, "last.ckpt")
    trainer.fit(module, datamodule=Digits(**data), ckpt_path=str(last) if last.exists() else None)
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
    return module


if __name__ == "__main__":
    train()
