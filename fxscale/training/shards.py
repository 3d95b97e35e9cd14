"""Images in tar files, as the webdataset package writes them: `KEY.jpg` beside `KEY.cls`.

Tar files keep their members uncompressed, each in one piece. So they are not streamed but indexed
once, from their headers, and every image is then read where it lies: shuffling, sharing out,
resumption and the replacement of unreadable images are those of any other data. The shards must lie
on a file system that all processes see.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from fxscale.errors import DataError
from fxscale.training.pictures import Source, photo_transform

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "ppm"})
LABEL_SUFFIX = "cls"


class ShardPictures:
    """The images of some shards, in the order in which they lie there.

    Raises `DataError` for a shard that is cut off or no plain tar file, and for an image without a
    label, naming the shard.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = tuple(shards)
        entries = [
            (number, *entry) for number, shard in enumerate(shards) for entry in _index(shard)
        ]
        if not entries:
            raise DataError(f"{shards[0]}: no images in {len(shards)} shards: expected KEY.jpg")
        # Arrays: lists of millions of tuples would be copied into every worker, page by page.
        table = numpy.array(entries, dtype=numpy.int64)
        self._shard, self._offset, self._size, self._label = table.T.copy()

    def __len__(self) -> int:
        return len(self._label)

    def name(self, index: int) -> str:
        return f"{self.shards[self._shard[index]]} at byte {self._offset[index]}"

    def label(self, index: int) -> int:
        return int(self._label[index])

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return int(self._label.max()) + 1

    def read(self, index: int) -> Any:
        from PIL import Image

        size = int(self._size[index])
        descriptor = _descriptor(self.shards[self._shard[index]], os.getpid())
        content = os.pread(descriptor, size, int(self._offset[index]))
        if len(content) < size:
            raise OSError(f"the shard ends {size - len(content)} bytes early")
        return Image.open(io.BytesIO(content)).convert("RGB")

    def transform(self, size: int, *, augment: bool) -> Callable[[Any], Tensor]:
        return photo_transform(size, augment=augment)


def shards(root: Path) -> Source:
    """`train*.tar` and `val*.tar` in a folder."""
    found = {split: sorted(root.glob(f"{split}*.tar")) for split in ("train", "val")}
    for split, paths in found.items():
        if not paths:
            raise DataError(f"{root}: no shards {split}*.tar")
    train, test = ShardPictures(found["train"]), ShardPictures(found["val"])
    if test.classes > train.classes:
        raise DataError(
            f"{root}: label {test.classes - 1} is among the images to test on, but labels to train "
            f"on end at {train.classes - 1}"
        )
    return Source(root.name, tuple(map(str, range(train.classes))), train, test)


@cache
def _descriptor(path: Path, process: int) -> int:
    """Opened once by each process, and kept open."""
    return os.open(path, os.O_RDONLY)


def _index(path: Path) -> Iterator[tuple[int, int, int]]:
    """Offset, size and label of every image, in the shard's order."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                key = f"{folder}/{stem}"
                if not member.isfile():
                    continue
                if suffix.lower() in IMAGE_SUFFIXES:
                    images[key] = member.offset_data, member.size
                elif suffix == LABEL_SUFFIX:
                    content = archive.extractfile(member)
                    labels[key] = int(content.read()) if content is not None else -1
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(
            f"{path}: not a complete, uncompressed tar file of KEY.jpg and KEY.cls with a class's "
            f"number in it ({error}). Fetch or pack it again"
        ) from error
    missing = [key for key in images if labels.get(key, -1) < 0]
    if missing:
        raise DataError(f"{path}: {len(missing)} images have no label, the first {missing[0]!r}")
    return ((*place, labels[key]) for key, place in images.items())
