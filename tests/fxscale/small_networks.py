"""The smallest networks to try a construct in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Net(nn.Module):
    """A convolution, then `body(self, features)`."""

    def __init__(self, body: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, self.conv(x))


def pair(*channels: int) -> nn.Sequential:
    """Two 3x3 convolutions that keep the size, with an activation between them."""
    first, last = channels[0], channels[-1]
    return nn.Sequential(
        nn.Conv2d(first, last, 3, padding=1), nn.ReLU(), nn.Conv2d(last, last, 3, padding=1)
    )
