"""Images: where they come from, how they are resized, how they are moved about."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fxscale.errors import FxscaleError
from fxscale.training import Augmentation, image_folder, image_set, noisy_digits
from fxscale.training.data import resize


def write_folder(root: Path, *, classes: int = 3, count: int = 2, size: int = 8) -> Path:
    """`root/SPLIT/CLASS/N.JPEG`, each of one random colour per 8 × 8 block."""
    generator = torch.Generator().manual_seed(1)
    for split in ("train", "val"):
        for name in (f"n{c}" for c in range(classes)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (size, size, 3), generator=generator)
                picture = Image.fromarray(pixels.to(torch.uint8).numpy())
                picture.save(folder / f"{number}.JPEG")
    return root


def pack(root: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for split in ("val", "train"):  # an order other than the sorted one
            archive.add(root / split, split)
    return path


def test_resize_averages_when_it_halves() -> None:
    # With a triangle filter of four taps (1, 3, 3, 1) / 8 away from the border.
    row = torch.arange(16.0) ** 2
    images = row.expand(1, 1, 16, 16)

    small = resize(images, 8)[0, 0, 4]

    expected = [(row[j - 1] + 3 * row[j] + 3 * row[j + 1] + row[j + 2]) / 8 for j in (2, 4, 6)]
    assert small[1:4].tolist() == pytest.approx([float(e) for e in expected], rel=1e-5)


def test_image_set_is_normalised_by_the_training_images() -> None:
    train = torch.rand(50, 2, 4, 4) * torch.tensor([3.0, 0.1]).view(1, 2, 1, 1) + 7
    labels = torch.arange(50) % 4

    images = image_set("x", (train, labels), (train[:5] + 1, labels[:5]))

    deviation, mean = torch.std_mean(images.train_images, dim=(0, 2, 3))
    assert (images.classes, images.size) == (4, 4)
    assert mean.tolist() == pytest.approx([0, 0], abs=1e-4)
    assert deviation.tolist() == pytest.approx([1, 1], rel=1e-3)
    difference = (images.test_images - images.train_images[:5]).mean((0, 2, 3))
    assert difference.tolist() == pytest.approx((1 / train.std((0, 2, 3))).tolist(), rel=1e-3)


def test_resized_to_the_same_size_is_the_same_set() -> None:
    images = noisy_digits(16, train=10, test=10)

    assert images.resized(16) is images
    assert images.resized(12).train_images.shape == (10, 1, 12, 12)


def candidates(image: Tensor, margin: int, mirror: bool) -> list[Tensor]:
    """Every image that the augmentation may make of this one, by brute force."""
    channels, size, _ = image.shape
    found = []
    for source in [image, image.flip(2)] if mirror else [image]:
        padded = torch.zeros(channels, size + 2 * margin, size + 2 * margin)
        padded[:, margin : margin + size, margin : margin + size] = source
        found += [
            padded[:, top : top + size, left : left + size]
            for top in range(2 * margin + 1)
            for left in range(2 * margin + 1)
        ]
    return found


@pytest.mark.parametrize("mirror", [True, False])
def test_augmentation_moves_and_mirrors(mirror: bool) -> None:
    images = torch.randn(200, 2, 8, 8)

    moved = Augmentation(shift=1 / 8, mirror=mirror)(images, torch.Generator().manual_seed(0))

    chosen = set()
    for image, result in zip(images, moved, strict=True):
        matches = [
            index
            for index, candidate in enumerate(candidates(image, 1, mirror))
            if torch.equal(candidate, result)
        ]
        assert len(matches) == 1
        chosen.update(matches)
    assert len(chosen) == (18 if mirror else 9)  # 200 draws reach all of them


def test_augmentation_draws_alike_at_every_size() -> None:
    states = []
    for size, augmentation in ((8, Augmentation(1 / 8, True)), (64, Augmentation(1 / 8, True))):
        generator = torch.Generator().manual_seed(3)
        augmentation(torch.randn(5, 1, size, size), generator)
        states.append(generator.get_state())

    assert torch.equal(*states)


def test_no_augmentation_leaves_the_images() -> None:
    images = torch.randn(5, 1, 8, 8)

    assert Augmentation()(images, torch.Generator()) is images


def test_digits_depend_on_the_seed_alone() -> None:
    first, again, other = (noisy_digits(16, train=20, test=10, seed=s) for s in (0, 0, 1))

    assert torch.equal(first.train_images, again.train_images)
    assert not torch.equal(first.train_labels, other.train_labels)
    assert first.train_images.shape == (20, 1, 16, 16)
    assert first.classes == 10


def test_too_many_digits() -> None:
    with pytest.raises(FxscaleError, match=r"there are 1797 digits; 1500 to train on and 500"):
        noisy_digits(16, train=1500, test=500)


def test_folder_and_tarball_give_the_same_images(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")

    folder = image_folder(root, classes=2, size=8)
    tarball = image_folder(pack(root, tmp_path / "i.tar.gz"), classes=2, size=8)

    assert folder.train_labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(folder.train_images, tarball.train_images)
    assert torch.equal(folder.test_images, tarball.test_images)


def test_folder_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    images = image_folder(root, classes=3, size=8)

    picture = Image.open(root / "val" / "n1" / "0.JPEG")
    pixels = torch.tensor(list(picture.tobytes())).view(8, 8, 3).permute(2, 0, 1) / 255
    normalised = images.test_images[2]

    # Normalising is affine in each channel, so the two must correlate perfectly.
    for channel in range(3):
        pair = torch.stack([pixels[channel].flatten(), normalised[channel].flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) == pytest.approx(1, abs=1e-5)


def test_folder_resizes(tmp_path: Path) -> None:
    root = write_folder(tmp_path, size=12)

    assert image_folder(root, classes=2, size=8).size == 8


def test_held_out_images_test_instead_of_train(tmp_path: Path) -> None:
    root = write_folder(tmp_path, count=3)
    whole = image_folder(root, classes=2, size=8)
    held = image_folder(root, classes=2, size=8, held_out=1)

    assert held.train_labels.tolist() == [0, 0, 1, 1]
    assert held.test_labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]

    def pixels(images: Tensor) -> Tensor:  # normalised anew, by other training images
        deviation, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True)
        return (images - mean) / deviation

    both = [torch.cat([s.train_images, s.test_images]) for s in (whole, held)]
    order = [0, 1, 3, 4, 6, 7, 8, 2, 9, 10, 11, 5]  # in which `held` has the images of `whole`
    assert torch.allclose(pixels(both[0])[order], pixels(both[1]), atol=1e-5)


@pytest.mark.parametrize("held_out", [-1, 2])
def test_more_images_held_out_than_there_are(tmp_path: Path, held_out: int) -> None:
    write_folder(tmp_path)

    with pytest.raises(FxscaleError, match=f"{held_out} of the 2 images under train/n0"):
        image_folder(tmp_path, classes=2, size=8, held_out=held_out)


def test_missing_data(tmp_path: Path) -> None:
    with pytest.raises(FxscaleError, match=r"absent\.tar: no such file or folder"):
        image_folder(tmp_path / "absent.tar", classes=2, size=8)


def test_truncated_tarball(tmp_path: Path) -> None:
    path = pack(write_folder(tmp_path / "images"), tmp_path / "i.tar.gz")
    path.write_bytes(path.read_bytes()[:-600])

    with pytest.raises(FxscaleError, match="not a complete tar archive"):
        image_folder(path, classes=2, size=8)


def test_not_a_tarball(tmp_path: Path) -> None:
    path = tmp_path / "i.tar.gz"
    path.write_bytes(b"nothing")

    with pytest.raises(FxscaleError, match="not a complete tar archive"):
        image_folder(path, classes=2, size=8)


@pytest.mark.parametrize("classes", [1, 4])
def test_wrong_number_of_classes(tmp_path: Path, classes: int) -> None:
    write_folder(tmp_path)

    with pytest.raises(FxscaleError, match=f"holds 3 classes .* {classes} were asked for"):
        image_folder(tmp_path, classes=classes, size=8)


def test_unreadable_image(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train" / "n0" / "0.JPEG").write_bytes(b"no image")

    with pytest.raises(FxscaleError, match=r"0\.JPEG is not a readable image"):
        image_folder(tmp_path, classes=2, size=8)


def test_class_without_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for file in (tmp_path / "val" / "n1").iterdir():
        file.unlink()

    with pytest.raises(FxscaleError, match="no images under val/n1"):
        image_folder(tmp_path, classes=2, size=8)


def test_tarball_with_a_top_folder_and_stray_files(tmp_path: Path) -> None:
    """An archive with stray files and folders of other depths is read all the same."""
    root = write_folder(tmp_path / "images")
    path = pack(root, tmp_path / "i.tar")
    with tarfile.open(path, "w") as archive:
        archive.add(root / "train", "set/train")
        archive.add(root / "val", "set/val")
        stray = tarfile.TarInfo("README")
        stray.size = 2
        archive.addfile(stray, io.BytesIO(b"hi"))

    assert image_folder(path, classes=3, size=8).classes == 3
