"""The benchmarks' residual network with 5 x 5 kernels in its blocks, for `--model`."""

from __future__ import annotations

from fxscale.training import SmallResNet


def residual_of_fives(num_classes: int = 10) -> SmallResNet:
    return SmallResNet(3, num_classes, widths=(32, 64, 128), blocks=2, kernel_size=5)
