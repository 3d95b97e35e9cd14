from __future__ import annotations

import pytest
import torch
from torch import nn

from fxscale.training import BasicBlock, SmallResNet


@pytest.mark.parametrize("size", [64, 44])
def test_pooled_network_takes_any_size(size: int) -> None:
    network = SmallResNet(3, 5, widths=(4, 8), blocks=2)

    assert network(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_interface_flattens_the_last_feature_map() -> None:
    network = SmallResNet(1, 10, widths=(4, 8, 16), interface=7)

    assert network.head.in_features == 16 * 7 * 7
    assert network(torch.randn(2, 1, 56, 56)).shape == (2, 10)
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 1, 40, 40))


def test_kernels_of_the_blocks_may_be_larger() -> None:
    network = SmallResNet(3, 5, widths=(4, 8), blocks=2, kernel_size=5)

    kernels = {m.kernel_size for m in network.layers.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {(5, 5), (1, 1)}
    assert network.layers(torch.randn(2, 4, 32, 32)).shape == (2, 8, 16, 16)


def test_blocks_start_as_their_shortcut() -> None:
    block = BasicBlock(4, 4, 1)
    network = SmallResNet(3, 5, widths=(4,), blocks=1)
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 4, 8, 8)

    assert torch.equal(block(x), x)
    assert all(not m.norm2.weight.any() for m in network.modules() if isinstance(m, BasicBlock))
