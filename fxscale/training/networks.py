"""A small residual network that two CPU cores can train, for the demo and the benchmarks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two convolutions with BatchNorm around a shortcut (He et al., 2016).

    `(N, C_in, H, W)` becomes `(N, C_out, ceil(H / stride), ceil(W / stride))`. The shortcut is the
    identity where it can be, a strided 1×1 convolution otherwise.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, kernel_size: int = 3
    ) -> None:
        super().__init__()
        size, padding = kernel_size, kernel_size // 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, size, stride, padding, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, size, 1, padding, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x))


class SmallResNet(nn.Module):
    """ResNet-34 in miniature: a 7×7 stem with stride 2, stages of basic blocks, a linear head.

    **Arguments:**

    - `in_channels`: channels of the images, `(N, in_channels, H, W)`.
    - `classes`: outputs, `(N, classes)`.
    - `widths`: channels of each stage; every stage but the first halves the feature map.
    - `blocks`: basic blocks in each stage.
    - `interface`: height and width of the last feature map if the head is to be a fully connected
      interface, `Linear(C * H * W, classes)`: the network then accepts one image size only.
      `None` (the default) averages the feature map instead, and any size will do.
    - `kernel_size`: of the blocks' convolutions, odd.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        widths: tuple[int, ...] = (32, 64, 128),
        blocks: int = 1,
        interface: int | None = None,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 7, 2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(channels, width, stride, kernel_size))
                channels = width
        self.layers = nn.Sequential(*layers)
        self.pool: nn.Module = nn.Identity() if interface else nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels * (interface or 1) ** 2, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                # Every block starts as its shortcut, which lets SGD take large steps at once
                # (Goyal et al., 2017).
                nn.init.zeros_(module.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.pool(self.layers(x))
        logits: Tensor = self.head(x.flatten(1))
        return logits
