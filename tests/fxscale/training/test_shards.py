from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from fxscale.errors import DataError
from fxscale.training.loading import Loader, Share
from fxscale.training.pictures import open_source
from fxscale.training.run import train
from fxscale.training.shards import ShardPictures
from tests.fxscale.training.small_runs import same, settings, tiny


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (colour, 0, 255 - colour)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of 20 images to train on, one of 11 to test on; the colour tells the class."""
    for name, first, count in (("train-0", 0, 20), ("train-1", 20, 20), ("val-0", 40, 11)):
        members = {}
        for number in range(first, first + count):
            members[f"{number:05d}.cls"] = str(number % 2).encode()
            members[f"{number:05d}.png"] = png(5 * number)
            members[f"{number:05d}.json"] = b"{}"
        pack(tmp_path / f"{name}.tar", members)
    return tmp_path


def test_images_and_labels(folder: Path) -> None:
    source = open_source(str(folder))
    assert (len(source.train), len(source.test), source.classes) == (40, 11, ("0", "1"))
    for index in range(40):
        pixels = numpy.asarray(source.train.read(index))
        assert pixels.shape == (20, 20, 3)
        assert pixels[3, 3].tolist() == [5 * index, 0, 255 - 5 * index]
        assert source.train.label(index) == index % 2
    assert source.train.name(20).endswith("train-1.tar at byte 1536")


def test_uneven_shards_are_shared_out_evenly(folder: Path) -> None:
    pictures = open_source(str(folder)).train

    def images(rank: int, processes: int) -> torch.Tensor:
        loader = Loader(pictures, seed=0, batch_size=12, share=Share(rank, processes), workers=rank)
        return torch.cat([batch.images for batch in loader.epoch(0, 8)])

    whole = images(0, 1)
    assert len(whole) == 36
    dealt = torch.stack([images(r, 2).view(3, 6, 3, 8, 8) for r in (0, 1)], dim=1)
    assert torch.equal(dealt.reshape(whole.shape), whole)


def test_a_run_on_shards_is_resumed(folder: Path, tmp_path: Path) -> None:
    chosen = settings(data=str(folder), epochs=2, milestones=(), resize_at="1")

    def run(name: str) -> torch.nn.Module:
        return train(chosen, tmp_path / name, resume=True, factory=tiny, accelerator="cpu").network

    assert same(run("a"), run("a"))
    assert same(run("a"), run("b"))


def test_damaged_shards(tmp_path: Path) -> None:
    path = tmp_path / "train-0.tar"
    members = {"a.cls": b"1", "a.png": png(9), "b.cls": b"0", "b.png": png(8)}
    pack(path, members)
    whole = path.read_bytes()
    path.write_bytes(whole[: 512 * 5 + 100])  # in the midst of a header
    with pytest.raises(DataError, match=r"train-0\.tar: not a complete, uncompressed tar file"):
        ShardPictures([path])
    pack(path, members | {"c.png": png(7)})
    with pytest.raises(DataError, match="1 images have no label, the first '/c'"):
        ShardPictures([path])
    pack(path, members | {"c.png": png(7), "c.cls": b"cat"})
    with pytest.raises(DataError, match=r"KEY\.cls with a class's number in it"):
        ShardPictures([path])
    pack(path, {"a.txt": b""})
    with pytest.raises(DataError, match="no images in 1 shards"):
        ShardPictures([path])


def test_a_shard_that_shrinks_is_an_unreadable_image(tmp_path: Path) -> None:
    path = tmp_path / "train-0.tar"
    pack(path, {"a.cls": b"1", "a.png": png(9)})
    pictures = ShardPictures([path])
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(OSError, match=r"the shard ends .* bytes early"):
        pictures.read(0)


def test_splits_that_do_not_fit(tmp_path: Path) -> None:
    pack(tmp_path / "train-0.tar", {"a.cls": b"1", "a.png": png(9)})
    with pytest.raises(DataError, match=r"no shards val\*\.tar"):
        open_source(str(tmp_path))
    pack(tmp_path / "val-0.tar", {"a.cls": b"2", "a.png": png(9)})
    with pytest.raises(DataError, match="label 2 is among the images to test on"):
        open_source(str(tmp_path))
