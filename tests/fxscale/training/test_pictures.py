from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fxscale.errors import DataError
from fxscale.training.pictures import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    open_source,
    photo_transform,
)


def picture(path: Path, colour: tuple[int, int, int], size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


def test_a_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "cat" / "1.png", (255, 0, 0))
        picture(tmp_path / split / "dog" / "2.png", (0, 255, 0))
        picture(tmp_path / split / "dog" / "3.jpeg", (0, 255, 0))
    source = open_source(str(tmp_path))

    assert source.classes == ("cat", "dog")
    assert [source.train.label(i) for i in range(len(source.train))] == [0, 1, 1]
    assert source.test.name(1).endswith("val/dog/2.png")
    for augment in (False, True):
        image = source.train.transform(8, augment=augment)(source.train.read(0))
        red = torch.tensor([1.0, 0.0, 0.0])
        expected = (red - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_DEVIATION)
        torch.testing.assert_close(image, expected[:, None, None].expand(3, 8, 8))


def test_evaluation_takes_the_centre() -> None:
    image = Image.new("RGB", (64, 64), (0, 0, 0))
    image.paste((255, 255, 255), (16, 16, 48, 48))
    found = photo_transform(56, augment=False)(image)[0]
    # 56 of 64 pixels are kept, so the white square begins 12 from the border.
    assert (found > 0).nonzero().aminmax().min == 12
    assert (found > 0).nonzero().aminmax().max == 43


def test_folders_that_are_laid_out_differently(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder\. Give a folder, 'digits' or 'synthetic'"):
        open_source(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="expected one folder of images per class"):
        open_source(str(tmp_path))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="expected one folder of images per class"):
        open_source(str(tmp_path))
    picture(tmp_path / "train" / "cat" / "1.png", (1, 2, 3))
    picture(tmp_path / "val" / "dog" / "1.png", (1, 2, 3))
    with pytest.raises(DataError, match=r"must hold the same classes; 2 are in one .* 'cat'"):
        open_source(str(tmp_path))


def test_digits() -> None:
    source = open_source("digits")
    assert (len(source.classes), len(source.train), len(source.test)) == (10, 1200, 500)
    image = source.train.transform(20, augment=False)(source.train.read(0))
    assert image.shape == (3, 20, 20)
    assert torch.equal(image[0], image[2])


def test_noise() -> None:
    source = open_source("synthetic")
    image = source.train.transform(20, augment=True)(source.train.read(7))
    assert image.shape == (3, 20, 20)
    assert len(source.classes) == 1000
    assert 0.9 < image.std() < 1.1
