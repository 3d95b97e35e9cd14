"""VGG in miniature, for `--model`: its blocks, with BatchNorm, and a fully connected interface.

It takes images of 64 x 64 pixels and of no other size: no network for progressive resizing.
"""

from __future__ import annotations

from torch import nn


def small_vgg(num_classes: int = 10, *, layers_per_block: int = 2) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64):
        for _ in range(layers_per_block):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(64 * 8 * 8, 256), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, *head, nn.Linear(256, num_classes))


def small_vgg_of_threes(num_classes: int = 10) -> nn.Module:
    """With three layers in a block, as VGG-16 has, where 2 x 2 kernels cannot keep a map's size."""
    return small_vgg(num_classes, layers_per_block=3)
