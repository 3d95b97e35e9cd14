"""Two classes of random pictures, and the Tiny ImageNet benchmark on them in miniature."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from benchmarks import tiny_imagenet


def write_images(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("n0", "n1"):
            pictures = folder / "images" / split / name
            pictures.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (32, 32, 3), generator=generator)
                picture = Image.fromarray(pixels.to(torch.uint8).numpy())
                picture.save(pictures / f"{number}.JPEG")
    return folder / "images"


def run_tiny_imagenet(data: Path, output: Path, *more: str) -> None:
    tiny_imagenet.main(
        ["--data", str(data), "--output", str(output), "--checkpoints", str(output / "kept"),
         "--seeds", "1", "--epochs", "3", "--milestones", "2", "--transitions", "2", "1",
         "--batch-size", "4", "--classes", "2", "--target-size", "32", "--pretrain-size", "24",
         "--widths", "16", "32", "--blocks", "1", *more]
    )  # fmt: skip
