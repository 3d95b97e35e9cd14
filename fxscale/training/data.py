"""Images held in memory, resized once per resolution, augmented batch by batch."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import floor
from pathlib import Path, PurePosixPath

import torch
import torch.nn.functional as F
from torch import Tensor

from fxscale.errors import FxscaleError

EPSILON = 1e-6


@dataclass(frozen=True)
class ImageSet:
    """Training and test images, normalised per channel by the training images' mean and deviation.

    Images are float32 `(N, C, S, S)` in `channels_last` order, labels int64 `(N,)`.
    """

    name: str
    classes: int
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.train_images.shape[-1]

    def resized(self, size: int) -> ImageSet:
        """The same images at `size × size`: bilinear, low-pass filtered when they shrink."""
        if size == self.size:
            return self
        return replace(
            self,
            train_images=resize(self.train_images, size),
            test_images=resize(self.test_images, size),
        )

    def to(self, device: torch.device) -> ImageSet:
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def image_set(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> ImageSet:
    """Normalises two pairs of images `(N, C, S, S)` and labels `(N,)` into an `ImageSet`."""
    deviation, mean = torch.std_mean(train[0], dim=(0, 2, 3), keepdim=True)

    def normalised(images: Tensor) -> Tensor:
        return ((images - mean) / (deviation + EPSILON)).contiguous(
            memory_format=torch.channels_last
        )

    return ImageSet(
        name,
        int(train[1].max()) + 1,
        normalised(train[0]),
        train[1],
        normalised(test[0]),
        test[1],
    )


def resize(images: Tensor, size: int) -> Tensor:
    """`(N, C, S, S)` to `(N, C, size, size)`, antialiased bilinear, `channels_last`."""
    small = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return small.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Augmentation:
    """Random translation (the border filled with the mean) and mirroring, per image.

    - `shift`: largest translation as a fraction of the image size, so that it means the same at
      every resolution.
    - `mirror`: whether half of the images are flipped left to right.
    """

    shift: float = 0.0
    mirror: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """`(N, C, S, S)` to the same shape. Draws equally many numbers for every `S`."""
        count, channels, size, _ = images.shape
        draws = torch.rand((3, count), generator=generator)
        margin = floor(self.shift * size + 0.5)
        if margin == 0 and not self.mirror:
            return images
        window = torch.arange(size)
        offsets = (draws[:2] * (2 * margin + 1)).long()
        rows = offsets[0, :, None] + window
        columns = offsets[1, :, None] + window
        if self.mirror:
            columns = torch.where(draws[2, :, None] < 0.5, columns.flip(1), columns)
        device = images.device
        padded = F.pad(images, (margin,) * 4)
        moved = padded[
            torch.arange(count, device=device)[:, None, None, None],
            torch.arange(channels, device=device)[None, :, None, None],
            rows.to(device)[:, None, :, None],
            columns.to(device)[:, None, None, :],
        ]
        return moved.contiguous(memory_format=torch.channels_last)


def noisy_digits(
    size: int = 56, *, train: int = 1200, test: int = 500, noise: float = 0.35, seed: int = 0
) -> ImageSet:
    """Handwritten digits from `sklearn.datasets.load_digits`, made harder than they are.

    The 1,797 real images of 8 × 8 pixels come with scikit-learn. Clean, they are too easy to tell
    two networks apart (99 %), so Gaussian noise of standard deviation `noise` (the pixels' range
    is 0 to 1) is added to every 8 × 8 image, once. Then they are enlarged to `size × size`
    (bilinear). Which images train and which test is drawn with `seed`.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    labels = torch.from_numpy(bunch.target).long()
    if train < 1 or test < 1 or train + test > len(labels):
        raise FxscaleError(
            f"there are {len(labels)} digits; {train} to train on and {test} to test on were asked "
            f"for. Ask for at least one of each and no more than there are"
        )
    generator = torch.Generator().manual_seed(seed)
    images += noise * torch.randn(images.shape, generator=generator)
    order = torch.randperm(len(labels), generator=generator)[: train + test]
    images, labels = resize(images[order], size), labels[order]
    return image_set(
        "noisy digits", (images[:train], labels[:train]), (images[train:], labels[train:])
    )


def image_folder(source: Path, *, classes: int, size: int, held_out: int = 0) -> ImageSet:
    """Reads the first `classes` classes, in order of their names, of a folder or a tarball.

    The layout is `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, as `torchvision.datasets.ImageFolder`
    reads it. Images are turned to RGB and resized to `size × size`. The last `held_out` training
    images of every class, in order of their file names, test instead of train: where a data set has
    few test images, differences between networks drown in the choice of these. A missing or damaged
    file, too few classes and too few images raise `FxscaleError`.
    """
    from PIL import Image, UnidentifiedImageError

    kept: dict[str, dict[str, dict[str, Tensor]]] = {
        "train": defaultdict(dict),
        "val": defaultdict(dict),
    }
    names = _class_names(source, classes)
    for path, content in _files(source):
        split, name = path.parts[-3], path.parts[-2]
        if split not in kept or name not in names:
            continue
        try:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise FxscaleError(f"{source}: {path} is not a readable image ({error})") from error
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        kept[split][name][path.name] = pixels.view(size, size, 3)

    for split, name in product(kept, names):
        if not kept[split][name]:
            raise FxscaleError(f"{source}: no images under {split}/{name}")
    for name in names:
        train = kept["train"][name]
        if not 0 <= held_out < len(train):
            raise FxscaleError(
                f"{source}: {held_out} of the {len(train)} images under train/{name} were to be "
                f"held out. Hold out fewer, and not less than none"
            )
        for file in sorted(train)[len(train) - held_out :]:
            kept["val"][name][f"train/{file}"] = train.pop(file)

    def gather(split: str) -> tuple[Tensor, Tensor]:
        # Sorted by file name: a folder and its tarball give the same set.
        images = torch.stack(
            [kept[split][name][file] for name in names for file in sorted(kept[split][name])]
        )
        counts = torch.tensor([len(kept[split][name]) for name in names])
        labels = torch.repeat_interleave(torch.arange(len(names)), counts)
        return images.permute(0, 3, 1, 2).float() / 255, labels

    return image_set(f"{source.name}, {classes} classes", gather("train"), gather("val"))


def _class_names(source: Path, classes: int) -> list[str]:
    names = sorted({path.parts[-2] for path, _ in _files(source, read=False)})
    if classes < 2 or classes > len(names):
        raise FxscaleError(
            f"{source}: holds {len(names)} classes under train/ and val/; {classes} were asked "
            f"for. Ask for 2 to {len(names)}"
        )
    return names[:classes]


def _files(source: Path, *, read: bool = True) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Path (ending in `SPLIT/CLASS/FILE`) and content of every image, in any order."""
    if source.is_dir():
        for file in source.glob("*/*/*"):
            yield PurePosixPath(file.as_posix()), file.read_bytes() if read else b""
        return
    if not source.is_file():
        raise FxscaleError(f"{source}: no such file or folder")
    try:
        with tarfile.open(source) as archive:
            for member in archive:  # in the archive's order: a compressed one cannot be sought in
                path = PurePosixPath(member.name)
                if not member.isfile() or len(path.parts) < 3:
                    continue
                stream = archive.extractfile(member) if read else None
                yield path, stream.read() if stream else b""
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise FxscaleError(
            f"{source}: not a complete tar archive ({error}). Fetch or pack it again"
        ) from error
