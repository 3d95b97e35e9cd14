"""Small Lightning runs for tests: a network that learns in no time, at two image sizes."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, SequentialLR
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import fxscale
from fxscale.lightning import Transition

SMALL, FULL = (8, 8), (12, 12)
BATCH = 8


class Network(nn.Sequential):
    def __init__(self, *, batchnorm: bool = True) -> None:
        norm = nn.BatchNorm2d(4) if batchnorm else nn.GroupNorm(2, 4)
        super().__init__(
            *(nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
        )


def pair(*, batchnorm: bool = True) -> tuple[nn.Module, nn.Module]:
    """The same pre-train network and target in every test and process."""
    torch.manual_seed(1)
    target = Network(batchnorm=batchnorm)
    return fxscale.downscale(target, SMALL, target_size=FULL), target


def pictures(size: tuple[int, ...], part: str) -> tuple[Tensor, Tensor]:
    """24 images of two kinds."""
    generator = torch.Generator().manual_seed(len(part))
    images = torch.randn(24, 1, *FULL, generator=generator)
    labels = torch.arange(24) % 2
    images[labels == 1] += 0.5
    return F.interpolate(images, size=size, mode="bilinear", antialias=True), labels


class Data(pl.LightningDataModule):
    """`size` is what its images are resized to; `asked` records at which sizes loaders were made.

    `ordered`: processes share the images out in order, so that a step takes those that it would
    take in one process; by default Lightning shuffles them.
    """

    def __init__(self, batch_size: int = BATCH, *, workers: int = 0, ordered: bool = False) -> None:
        super().__init__()
        self.size: tuple[int, ...] = ()
        self.batch_size = batch_size
        self.workers = workers
        self.ordered = ordered
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def _loader(self, part: str) -> DataLoader[Any]:
        self.asked.append((part, self.size))
        images = TensorDataset(*pictures(self.size, part))
        return DataLoader(
            images,
            sampler=DistributedSampler(images, shuffle=False) if self.ordered else None,
            batch_size=self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")


class Classifier(pl.LightningModule):
    """Has a parameter of its own beside the network's."""

    def __init__(self, network: nn.Module, kind: str = "sgd") -> None:
        super().__init__()
        self.network = network
        self.kind = kind
        self.bias = nn.Parameter(torch.zeros(2))
        self.sizes: list[tuple[int, ...]] = []
        """Of the images of every training step."""

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.sizes.append(tuple(batch[0].shape[2:]))
        return self._loss(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.log("loss", self._loss(batch), sync_dist=True)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.network(batch[0]) + self.bias, batch[1])

    def configure_optimizers(self) -> Any:
        if self.kind == "adamw":
            return torch.optim.AdamW(self.parameters(), lr=0.01)
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": schedule(optimizer)}


def schedule(optimizer: torch.optim.Optimizer) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.5, total_iters=1), MultiStepLR(optimizer, [1], 0.1)]
    return SequentialLR(optimizer, parts, milestones=[1])


def trainer(*callbacks: Callback, epochs: int = 4, **options: Any) -> pl.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = dict.fromkeys(quiet, False) | {"num_sanity_val_steps": 0} | options
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        use_distributed_sampler=True,
        **({"devices": 1} | options),
    )


def fit(
    *callbacks: Callback,
    at: Any = 2,
    kind: str = "sgd",
    data: Data | None = None,
    resume: Any = None,
    batchnorm: bool = True,
    transition: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Classifier, Transition, pl.Trainer]:
    """One run of four epochs, the transition after two of them."""
    small, target = pair(batchnorm=batchnorm)
    over = Transition(target, at, resolution="size", **(transition or {}))
    module = Classifier(small, kind)
    runner = trainer(over, *callbacks, **options)
    runner.fit(module, datamodule=data or Data(), ckpt_path=resume, weights_only=False)
    return module, over, runner
