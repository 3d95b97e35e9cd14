from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks._step import Settings, accepts, training_step
from benchmarks._timing import WARM_UP
from fxscale.training import SmallResNet

CPU = Settings(torch.device("cpu"), batch_size=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_trains(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = network[0].weight.detach().clone()

    training_step(network, 8, Settings(torch.device("cpu"), dtype, batch_size=2))()

    assert not torch.equal(network[0].weight, before)
    assert network[0].weight.dtype == torch.float32


@pytest.mark.gpu
def test_a_graph_takes_the_same_steps() -> None:
    network = SmallResNet(3, 5, widths=(16, 32)).cuda()
    other = deepcopy(network)
    settings = Settings(torch.device("cuda"), batch_size=2)
    torch.manual_seed(0)
    step = training_step(network, 32, settings)
    torch.manual_seed(0)
    graphed = training_step(other, 32, replace(settings, graphed=True))  # has warmed up

    for _ in range(WARM_UP + 2):
        step()
    for _ in range(2):
        graphed()

    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_which_images_are_accepted() -> None:
    network = SmallResNet(3, 5, widths=(16, 32), interface=16)

    assert accepts(network, 64, CPU)
    assert not accepts(network, 44, CPU)
    assert network.training


def test_precision_has_a_name() -> None:
    assert Settings(torch.device("cpu"), torch.bfloat16).precision == "bf16"
