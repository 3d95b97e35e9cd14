from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fxscale.errors import DataError
from fxscale.training.loading import Batch, Loader, Share
from fxscale.training.pictures import Pictures, folder
from tests.fxscale.training.small_runs import source


def loader(
    pictures: Pictures | None = None,
    *,
    share: Share = Share(0, 1),  # noqa: B008  immutable
    accumulate: int = 1,
    workers: int = 0,
    on_corrupt: str = "error",
    batch_size: int = 12,
    replace: bool = True,
) -> Loader:
    return Loader(
        pictures or source(train=50).train,
        seed=3,
        batch_size=batch_size,
        accumulate=accumulate,
        share=share,
        workers=workers,
        on_corrupt=on_corrupt,
        replace=replace,
    )


def images(batches: list[Batch]) -> Tensor:
    return torch.cat([batch.images for batch in batches])


def test_processes_and_parts_share_out_the_same_batches() -> None:
    whole = list(loader().epoch(2, 24))
    assert len(whole) == 4  # of 12; 2 of the 50 images are left over

    parts = [list(loader(share=Share(r, 2), accumulate=3).epoch(2, 24)) for r in (0, 1)]
    for step, batch in enumerate(whole):
        dealt = [parts[m % 2][3 * step + m // 2] for m in range(6)]
        assert {len(b.labels) for b in dealt} == {2}
        assert torch.equal(images(dealt), batch.images)


def test_epochs_differ_and_sizes_change() -> None:
    train = loader()
    first, second = list(train.epoch(0, 24)), list(train.epoch(1, 24))
    assert not torch.equal(images(first), images(second))
    assert torch.equal(images(first), images(list(train.epoch(0, 24))))
    assert images(list(train.epoch(0, 17))).shape == (48, 3, 17, 17)


def test_an_epoch_can_be_entered_anywhere() -> None:
    whole = list(loader(accumulate=2).epoch(0, 17))
    rest = list(loader(accumulate=2).epoch(0, 17, first=1, last=3))
    assert torch.equal(images(rest), images(whole[2:6]))


def test_workers_serve_all_sizes_and_survive_a_pass_that_is_given_up() -> None:
    helped, alone = loader(workers=1), loader()
    given_up = helped.epoch(0, 24)
    next(given_up)
    assert torch.equal(images(list(helped.epoch(1, 17))), images(list(alone.epoch(1, 17))))
    assert torch.equal(images(list(helped.epoch(2, 24))), images(list(alone.epoch(2, 24))))


@pytest.mark.parametrize("processes", [1, 3, 4])
def test_every_test_image_is_evaluated_once(processes: int) -> None:
    pictures = source(test=31).test
    loaders = [loader(pictures, share=Share(r, processes), replace=False) for r in range(processes)]
    shares = [list(each.evaluation(24)) for each in loaders]
    for each, share in zip(loaders, shares, strict=True):
        counts = dict.fromkeys(len(batch.labels) for batch in share)  # without repetitions
        assert each.evaluation_batches == list(counts)
    found = images([batch for share in shares for batch in share])
    expected = torch.stack([pictures.read(i) for i in range(31)])
    assert found.shape == expected.shape
    assert {tuple(x.flatten()[:3].tolist()) for x in found} == {
        tuple(x.flatten()[:3].tolist()) for x in expected
    }


def test_batches_that_cannot_be_shared_out() -> None:
    with pytest.raises(DataError, match=r"batch of 12 .* 5 processes of 1 equal .* multiple of 5"):
        loader(share=Share(0, 5))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Two classes of four images each; one is cut off, one is no image, one is empty."""
    for split in ("train", "val"):
        for number in range(8):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 255, (20, 20, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(path)
    for split in ("train", "val"):
        cut = tmp_path / split / "a" / "0.png"
        cut.write_bytes(cut.read_bytes()[:300])
        (tmp_path / split / "b" / "1.png").write_bytes(b"no image")
        (tmp_path / split / "b" / "3.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_are_named(damaged: Path, workers: int) -> None:
    pictures = folder(damaged).train
    with pytest.raises(DataError, match=r"cannot be read: .*[013]\.png: .*--on-corrupt skip"):
        list(loader(pictures, workers=workers, batch_size=8).epoch(0, 8))


def test_damaged_images_are_replaced_and_told(damaged: Path) -> None:
    source = folder(damaged)
    (batch,) = loader(source.train, on_corrupt="skip", batch_size=8).epoch(0, 8)
    assert batch.images.shape == (8, 3, 8, 8)
    # The fourth fault: 3.png stands behind 1.png, and is tried in its place.
    assert sorted({fault.partition(".png")[0][-1] for fault in batch.faults}) == ["0", "1", "3"]
    # Evaluation takes nothing in their place.
    tested = list(loader(source.test, on_corrupt="skip", batch_size=8, replace=False).evaluation(8))
    assert sum(len(b.labels) for b in tested) == 5
    assert sum(len(b.faults) for b in tested) == 3


def test_nothing_but_damage(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for number in range(4):
            (tmp_path / split / "a" / f"{number}.png").write_bytes(b"")
    train = loader(folder(tmp_path).train, on_corrupt="skip", batch_size=2)
    with pytest.raises(DataError, match="100 images in a row cannot be read, the first"):
        list(train.epoch(0, 8))
