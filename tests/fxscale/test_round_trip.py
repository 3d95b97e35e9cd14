"""From the compiler through training and transition to the target: nothing made by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import fxscale

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Net(nn.Module):
    """Two convolutions, BatchNorm, pooling and an FC interface, in one to three dimensions."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            CONV[rank](2, 6, 5, padding=2, bias=False),
            NORM[rank](6),
            nn.ReLU(),
            POOL[rank](2),
            CONV[rank](6, 8, 3, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(8 * 6**rank, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classifier(self.features(x).flatten(1))
        return result


def image(size: int, rank: int) -> Tensor:
    return torch.randn(4, 2, *[size] * rank)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_round_trip(rank: int) -> None:
    target = Net(rank)
    before = copy.deepcopy(target.state_dict())
    small = fxscale.downscale(target, 8, target_size=12)
    optimizer = SGD(small.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        small(image(8, rank)).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())

    state = fxscale.upscale_state(small)
    loaded = copy.deepcopy(target)
    loaded.load_state_dict(state)
    assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
        k: (v.shape, v.dtype) for k, v in before.items()
    }

    report = fxscale.transition(
        small, target, optimizer=optimizer, batches=[image(12, rank) for _ in range(2)]
    )
    assert report.resized == 3
    assert report.batchnorm_batches == 2
    target(image(12, rank)).square().mean().backward()
    assert report.optimizer is not None
    report.optimizer.step()


def test_resample_init_undoes_upscaling() -> None:
    target = Net(2)
    small = fxscale.downscale(target, 8, target_size=12)
    trained = copy.deepcopy(target)
    trained.load_state_dict(fxscale.upscale_state(small))
    again = fxscale.downscale(trained, 8, target_size=12, init="resample")
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, small.state_dict()[key])


@pytest.mark.parametrize("init", ["fan", "resample"])
def test_the_same_size_and_kernels_are_the_target_bit_for_bit(init: str) -> None:
    target = Net(2)
    same = fxscale.downscale(
        target, 12, target_size=12, kernels=lambda site: site.kernel_size, init=init
    )
    state = fxscale.upscale_state(same)
    assert all(torch.equal(state[key], value) for key, value in target.state_dict().items())
    x = image(12, 2)
    assert torch.equal(same(x), target(x))
    assert torch.equal(same.eval()(x), target.eval()(x))


def test_training_in_stages() -> None:
    target = Net(2)
    first = fxscale.downscale(target, 8, target_size=12)
    second = fxscale.downscale(target, 10, target_size=12, kernels="nearest")
    state = fxscale.upscale_state(first, into=second)
    second.load_state_dict(state)
    kernel = first.state_dict()["features.0.weight"]
    size = tuple(second.state_dict()["features.0.weight"].shape[2:])
    gain = math.prod(kernel.shape[2:]) / math.prod(size)
    stretched = nn.functional.interpolate(kernel, size=size, mode="bicubic")
    torch.testing.assert_close(state["features.0.weight"], gain * stretched)
    target.load_state_dict(fxscale.upscale_state(second))


class Versioned(Net):
    """Its state has a version that loading requires, like torchvision's MNASNet."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError(f"version 2 expected, found {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_versions_of_modules_travel_with_the_state() -> None:
    target = nn.Sequential(Versioned(2))
    small = fxscale.downscale(target, 8, target_size=12)
    plan = fxscale.ScalePlan.from_json(small.plan.to_json())
    for state in (fxscale.upscale_state(small), fxscale.upscale_state(plan, small.state_dict())):
        assert state._metadata["0"]["version"] == 2
        target.load_state_dict(state)
    fxscale.transition(small, target)  # loads the state: without its versions it would raise


def test_a_plan_of_another_model() -> None:
    small = fxscale.downscale(Net(2), 8, target_size=12)
    other = fxscale.downscale(Net(1), 8, target_size=12)
    with pytest.raises(fxscale.PlanMismatchError, match="different targets"):
        fxscale.upscale_state(small, into=other)
    with pytest.raises(fxscale.PlanMismatchError, match="made for another network"):
        fxscale.transition(small, Net(1))
