"""Where images come from: a folder, images in memory, or noise. Read one by one, in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fxscale.errors import DataError
from fxscale.training.data import ImageSet, noisy_digits
from fxscale.training.extra import require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
CENTRE = 0.875
"""Share of an evaluated image's height and width that is kept, its centre."""


class Pictures(Protocol):
    """One split of a data set."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Of an image, for messages."""

    def label(self, index: int) -> int: ...

    def read(self, index: int) -> Any:
        """The image as `transform` takes it. Raises whatever its decoder raises."""

    def transform(self, size: int, *, augment: bool) -> Callable[[Any], Tensor]:
        """From what `read` returns to float32 `(3, size, size)`, drawn from torch's generator."""


@dataclass(frozen=True)
class Source:
    """Training and test images, and the names of their classes."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures


def open_source(data: str) -> Source:
    """`"digits"`, `"synthetic"`, or the folder of that name: of images or of tar files.

    Raises `DataError` where there is no such folder, or it is laid out differently.
    """
    require("torchvision")
    if data == "digits":
        return in_memory(noisy_digits(8))
    if data == "synthetic":
        return Source("noise", tuple(map(str, range(1000))), Noise(12_800), Noise(1_280))
    if any(Path(data).glob("train*.tar")):
        from fxscale.training.shards import shards  # which stands on this file

        return shards(Path(data))
    return folder(Path(data))


class FolderPictures:
    """Files as `torchvision.datasets.ImageFolder` finds them; decoded when they are read."""

    def __init__(self, root: Path) -> None:
        from torchvision.datasets import ImageFolder

        try:
            found = ImageFolder(str(root))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{root}: expected one folder of images per class, CLASS/*.jpeg; {error}"
            ) from error
        self.classes = tuple(found.classes)
        self._samples = found.samples
        self._load = found.loader

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        return str(self._samples[index][0])

    def label(self, index: int) -> int:
        return int(self._samples[index][1])

    def read(self, index: int) -> Any:
        return self._load(self._samples[index][0])

    def transform(self, size: int, *, augment: bool) -> Callable[[Any], Tensor]:
        return photo_transform(size, augment=augment)


def photo_transform(size: int, *, augment: bool) -> Callable[[Any], Tensor]:
    """Random resized crop and flip to train on, the resized centre to evaluate on.

    From a PIL image to `(3, size, size)`, normalised by ImageNet's mean and deviation.
    """
    from torchvision.transforms import v2

    fitted = (
        [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        if augment
        else [v2.Resize(round(size / CENTRE), antialias=True), v2.CenterCrop(size)]
    )
    return v2.Compose(  # type: ignore[no-any-return]  # torchvision leaves it untyped
        [
            *fitted,
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_DEVIATION),
        ]
    )


def folder(root: Path) -> Source:
    """`train/CLASS/*` and `val/CLASS/*` under `root`, with the same classes in both."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give a folder, 'digits' or 'synthetic'")
    train, test = FolderPictures(root / "train"), FolderPictures(root / "val")
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"{root}: train/ and val/ must hold the same classes; {len(differing)} are in one of "
            f"them alone, the first {differing[0]!r}"
        )
    return Source(root.name, train.classes, train, test)


@dataclass(frozen=True)
class TensorPictures:
    """Normalised images in memory, `(N, 1 or 3, S, S)`; shifted a little to train on."""

    images: Tensor
    labels: Tensor
    shift: float = 1 / 16

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"image {index}"

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def read(self, index: int) -> Any:
        return self.images[index].expand(3, -1, -1)  # grey images in three equal channels

    def transform(self, size: int, *, augment: bool) -> Callable[[Any], Tensor]:
        from torchvision.transforms import v2

        resize = v2.Resize((size, size), antialias=True)
        if not augment or not self.shift:
            return resize  # type: ignore[no-any-return]  # torchvision leaves it untyped
        shift = v2.RandomAffine(0, translate=(self.shift, self.shift))
        return v2.Compose([resize, shift])  # type: ignore[no-any-return]  # torchvision leaves it untyped


def in_memory(images: ImageSet) -> Source:
    """An `ImageSet` as a source; its images are resized to every phase's size when read."""
    return Source(
        images.name,
        tuple(map(str, range(images.classes))),
        TensorPictures(images.train_images, images.train_labels),
        TensorPictures(images.test_images, images.test_labels),
    )


@dataclass(frozen=True)
class Noise:
    """Images of noise, to measure speed without reading files; 1,000 classes."""

    count: int

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"noise {index}"

    def label(self, index: int) -> int:
        return index % 1000

    def read(self, index: int) -> Any:
        return index

    def transform(self, size: int, *, augment: bool) -> Callable[[Any], Tensor]:
        image = torch.randn((3, size, size), generator=torch.Generator().manual_seed(0))
        return lambda index: image
