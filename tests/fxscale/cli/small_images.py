"""A folder of small grey pictures, in two classes that a network tells apart in an epoch."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image


def write_images(root: Path, train: int, test: int) -> Path:
    """28 × 28 pixels, brighter in the second class; `train` and `test` are numbers per class."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", train), ("val", test)):
        for label in range(2):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(60, (28, 28), generator=generator) + 120 * label
                Image.fromarray(pixels.byte().numpy()).save(folder / f"{number}.png")
    return root
