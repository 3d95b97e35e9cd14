"""Memory, held against what is counted by hand and on real tensors; the search, on formulas."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks._memory import _largest, counted, largest_batch, step_memory
from benchmarks._step import Settings
from fxscale.training import SmallResNet

CPU = Settings(torch.device("cpu"), batch_size=2)


def test_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    parameters = 8 * 3 * 9 + 8 + 5 * 8 * 16 + 5
    images, activations = 3 * 6 * 6, 8 * 4 * 4  # of one image; ReLU's result is the last's input
    loss = 2 * 5 + 1 + 2 * 2  # the softmax's result, the total weight, labels of 8 bytes

    expected = 4 * (3 * parameters + 2 * (images + activations) + loss)

    # In channels_last, flattening would copy the activations.
    assert step_memory(network, 6, replace(CPU, channels_last=False)) == expected
    assert not any(p.grad is not None for p in network.parameters())  # a copy took the step


def test_fake_tensors_count_like_real_ones() -> None:
    network = SmallResNet(3, 5, widths=(16, 32))

    assert step_memory(network, 32, CPU) == counted(deepcopy(network), 32, CPU)


def test_bytes_grow_with_the_images() -> None:
    network = SmallResNet(3, 5, widths=(16, 32))
    budget = step_memory(network, 32, CPU)

    assert largest_batch(network, 32, CPU, budget) == 2
    assert largest_batch(network, 16, CPU, budget) > 4
    assert largest_batch(network, 32, CPU, 0) == 0


@pytest.mark.parametrize("start", [1, 7, 64])
@pytest.mark.parametrize("expected", [0, 1, 5, 63, 64, 300])
def test_the_largest_batch_is_found(start: int, expected: int) -> None:
    asked = []

    def memory(count: int) -> float:
        asked.append(count)
        # More than a device has, not in proportion, and a step with every 8 images.
        return float("inf") if count > 400 else 1000 + 10 * count + count // 8

    assert _largest(memory, start, memory(expected) + 5) == expected
    assert len(asked) < 20


@pytest.mark.gpu
def test_measured_on_cuda() -> None:
    settings = Settings(torch.device("cuda"), batch_size=8)
    network = SmallResNet(3, 5, widths=(16, 32))

    large, small = (step_memory(network, size, settings) for size in (64, 32))

    assert large > small > 0
    assert largest_batch(network, 32, settings, large) > 8
