"""Networks for the tests of ONNX, small enough to be exported in a second."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """One level of a U-Net: two scales, a transposed convolution, a skip by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = self.deep(F.max_pool2d(fine, 2))
        return self.head(torch.cat([self.up(coarse), fine], dim=1))


class TwoModes(nn.Module):
    """Computes something else in train mode than in eval mode, and returns more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        self.auxiliary = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = F.dropout(self.norm(self.conv(x)).relu(), 0.5, self.training).mean((2, 3))
        if self.training:
            return self.head(features), self.auxiliary(features)
        return self.head(features)


def settle(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and weights that a wrong translation would get wrong."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return network
