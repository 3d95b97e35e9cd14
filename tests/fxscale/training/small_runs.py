"""Small runs for tests: images that a tiny network learns in seconds."""

from __future__ import annotations

from typing import Any

import lightning_fabric  # noqa: F401  it wraps torch.compile: before a test replaces that
import torch
from torch import Tensor, nn

from fxscale.training.data import ImageSet, image_set
from fxscale.training.pictures import Source, TensorPictures, in_memory
from fxscale.training.settings import Settings

SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "data": "squares",
    "target_size": 24,
    "pretrain_sizes": (17,),
    "epochs": 4,
    "learning_rate": 0.05,
    "milestones": (3,),
    "resize_at": "2",
    "batch_size": 16,
    "batchnorm_batches": 3,
    "log_every": 2,
}


def settings(**changes: Any) -> Settings:
    return Settings(**{**SETTINGS, **changes})


def squares(train: int = 70, test: int = 30) -> ImageSet:
    """Two kinds of random 24 × 24 images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(train + test) % 2
    pictures = torch.randn(train + test, 1, 24, 24, generator=generator)
    pictures[labels == 1, :, 6:18, 6:18] += 0.6
    return image_set(
        "squares", (pictures[:train], labels[:train]), (pictures[train:], labels[train:])
    )


def source(train: int = 70, test: int = 30) -> Source:
    return in_memory(squares(train, test))


def unshifted(images: ImageSet) -> Source:
    """Images as they are, not augmented."""
    return Source(
        "squares",
        ("0", "1"),
        TensorPictures(images.train_images, images.train_labels, shift=0),
        TensorPictures(images.test_images, images.test_labels, shift=0),
    )


class Tiny(nn.Module):
    """Convolutions with a normalisation and dropout; a fully connected interface."""

    def __init__(self, classes: int, *, batchnorm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 5, padding=2)
        self.norm: nn.Module = nn.BatchNorm2d(8) if batchnorm else nn.GroupNorm(2, 8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * 6 * 6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.norm(self.conv1(x)).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        logits: Tensor = self.fc(self.drop(x.flatten(1)))
        return logits


class WithAuxiliary(Tiny):
    """A second classifier in train mode, as GoogLeNet and Inception have it."""

    def __init__(self, classes: int, *, dropout: float = 0.2) -> None:
        super().__init__(classes, dropout=dropout)
        self.auxiliary = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, self.auxiliary(x.mean((2, 3)))) if self.training else logits


class Pooled(Tiny):
    """Takes images of any size, so that it can be resized progressively."""

    def __init__(self, classes: int, *, dropout: float = 0.2) -> None:
        super().__init__(classes, dropout=dropout)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.norm(self.conv1(x)).relu(), 2)
        logits: Tensor = self.fc(self.drop(self.conv2(x).relu().mean((2, 3))))
        return logits


class WideKernel(Tiny):
    """Its last kernel of 6 pixels fits on as many, but not on what images of 17 leave."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.conv3 = nn.Conv2d(8, 8, 6, padding=(3, 2))
        self.fc = nn.Linear(8 * 7 * 5, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.norm(self.conv1(x)).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        logits: Tensor = self.fc(self.drop(self.conv3(x).relu().flatten(1)))
        return logits


def tiny(classes: int) -> nn.Module:
    return Tiny(classes)


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])
