"""`init="fan"`: a fresh pre-train network has the target's variances, layer by layer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale

TARGET, PRETRAIN = 224, 160
FACTOR = 1.5
TINY_IMAGENET = "FXSCALE_TINY_IMAGENET"
"""Environment variable: a folder somewhere below which Tiny ImageNet's JPEG files lie."""

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def normalised(pixels: Tensor) -> Tensor:
    """Images `(N, 3, H, W)` of 0 to 255 as ImageNet networks expect them, at the target's size."""
    return (resized(pixels.float() / 255, TARGET) - MEAN) / STD


def resized(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def sample_images() -> Tensor:
    """A coarse and a fine crop of each of scikit-learn's two photographs (427 x 640)."""
    datasets = pytest.importorskip("sklearn.datasets")
    crops = []
    for photograph in datasets.load_sample_images().images:
        pixels = torch.tensor(photograph).permute(2, 0, 1)[None]
        crops += [normalised(pixels[..., :427, 106:533]), normalised(pixels[..., 100:324, 200:424])]
    return torch.cat(crops)


def tiny_imagenet_images(count: int) -> Tensor:
    folder = os.environ.get(TINY_IMAGENET)
    if not folder:
        pytest.skip(f"{TINY_IMAGENET} does not name a folder with Tiny ImageNet")
    pil_image = pytest.importorskip("PIL.Image")
    files = sorted(Path(folder).rglob("*.JPEG"))
    chosen = files[:: max(1, len(files) // count)][:count]
    images = []
    for file in chosen:
        with pil_image.open(file) as image:
            pixels = torch.tensor(np.asarray(image.convert("RGB")))
        images.append(normalised(pixels.permute(2, 0, 1)[None]))
    return torch.cat(images)


def variances(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Variance of what every convolution and linear layer puts out, before its activation."""
    found: dict[str, float] = {}

    def measure(name: str, output: Tensor) -> None:
        found[name] = float(output.double().var())

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: measure(name, output)
            )
    with torch.no_grad():
        model.eval()(images)
    return found


def ratios(images: Tensor, seed: int) -> dict[str, float]:
    """Pre-train network's variance over the target's, for torchvision's VGG-16 as it comes."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(seed)
    target = models.vgg16(weights=None)
    small = fxscale.downscale(target, PRETRAIN, target_size=TARGET)
    expected = variances(target, images)
    found = variances(small, resized(images, PRETRAIN))
    assert len(expected) == 13 + 3
    assert found.keys() == expected.keys()
    return {name: found[name] / expected[name] for name in expected}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_vgg16_keeps_its_variances_on_photographs(seed: int) -> None:
    for name, ratio in ratios(sample_images(), seed).items():
        assert 1 / FACTOR <= ratio <= FACTOR, (name, ratio)


@pytest.mark.slow
def test_vgg16_keeps_its_variances_on_tiny_imagenet() -> None:
    for name, ratio in ratios(tiny_imagenet_images(8), 0).items():
        assert 1 / FACTOR <= ratio <= FACTOR, (name, ratio)
