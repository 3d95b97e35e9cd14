"""Networks and layers that refusals are shown on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.passes.networks import Around


class Weighted(nn.Module):
    """A convolution whose weight `function(self)` computes from the parameter `w`."""

    def __init__(self, function: Callable[[Any], Tensor], *shape: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape or (4, 4, 3, 3)))
        self.gain = nn.Parameter(torch.ones(4, 1, 3, 3))
        self.register_buffer("mask", torch.tensor([0.0, 1.0, 1.0]).expand(4, 4, 3, 3).clone())
        self.register_buffer("even", torch.ones(4, 4, 3, 3))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.function(self))


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what users still have
        compiled: nn.Module = torch.jit.script(module)
    return compiled


def pruned(*, for_good: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layer = nn.Conv2d(4, 4, 3)
        prune.l1_unstructured(layer, "weight", 0.5)
        if for_good:
            prune.remove(layer, "weight")
        return Around(lambda m, x: m.next(x), next=layer)

    return build


class Locked(nn.Module):
    """Cannot be copied while it holds its cache."""

    def __init__(self, cache: object) -> None:
        super().__init__()
        self.cache = cache

    def forward(self, x: Tensor) -> Tensor:
        return x


class TwoImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.conv(x) + self.conv(y)


class Doubler(nn.TransformerEncoderLayer):
    """A layer of one's own, as `nn.TransformerEncoder` calls it."""

    def forward(self, src: Tensor, *_: Any, **__: Any) -> Tensor:
        return 2 * src


class OfRows(nn.Module):
    """Takes its images as rows of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.view(-1, 3, 12, 12))
        return out


def pieces(x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Two maps one behind the other, divided."""
    tokens = torch.cat((x.flatten(2), F.max_pool2d(x, 2).flatten(2)), 2)
    return tokens.split(sizes, 2)


def written(x: Tensor, value: Tensor) -> Tensor:
    x = x.clone()
    x[:, :2] = value
    return x
