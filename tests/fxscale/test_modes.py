"""Networks whose train and eval modes differ. One small network each."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from tests.fxscale.checks import assert_compiles, leaves
from tests.fxscale.small_networks import Net


class StochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if not self.training:
            return x + y * 0.8
        keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) < 0.8
        return x + y * keep.to(x.dtype)


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        mask = x.new_empty(shape).bernoulli_(0.7)
        return x.div(0.7) * mask


class RepVGG(nn.Module):
    """Three branches in train mode; in eval mode one convolution, folded in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.one = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.deployed = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.relu(self.three(x) + self.one(x) + self.norm(x))
        return F.relu(self.deployed(x))


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.aux, self.head = nn.Linear(4 * 6 * 6, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        extra = self.aux(F.max_pool2d(x, 2).flatten(1)) if self.training else None
        out = self.head(self.b(x).mean((2, 3)))
        return {"out": out, "aux": extra} if self.training else out


def dropout_by_a_flag(m: Any, x: Tensor) -> Tensor:
    return F.dropout2d(x, 0.4, training=m.training)


def dropout_module(m: Any, x: Tensor) -> Any:
    return m.drop(x)


def drop_path(m: Any, x: Tensor) -> Any:
    return x + m.drop(x)


MODES: dict[str, Callable[[], nn.Module]] = {
    "dropout by a flag": lambda: Net(dropout_by_a_flag),
    "dropout modules": lambda: Net(dropout_module, drop=nn.Dropout(0.4)),
    "stochastic depth": lambda: nn.Sequential(StochasticDepth(), StochasticDepth()),
    "drop path": lambda: Net(drop_path, drop=DropPath()),
    "re-parametrised block": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), RepVGG()),
    "auxiliary head": Auxiliary,
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name: str) -> None:
    assert_compiles(MODES[name](), 12, 8)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("carry", ["deepcopy", "pickle", "compile"])
def test_copies_follow_train_and_eval(name: str, carry: str) -> None:
    small = fxscale.downscale(MODES[name](), 8, target_size=12)
    small.note = "kept"
    carried: Any = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda m: pickle.loads(pickle.dumps(m)),
        "compile": lambda m: torch.compile(m, backend="eager"),
    }[carry](small)
    image = torch.randn(2, 3, 8, 8)
    for mode in (True, False, True):
        results = []
        for network in (small, carried):
            torch.manual_seed(1)
            results.append(list(leaves(network.train(mode)(image))))
        assert all(map(torch.equal, *results))
        assert len(results[0]) == len(results[1])
    assert carried.note == "kept"


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_data_parallel_follows_train_and_eval(process_group: None) -> None:
    small = fxscale.downscale(Auxiliary(), 8, target_size=12)
    wrapped = nn.parallel.DistributedDataParallel(small, find_unused_parameters=True)
    out = wrapped(torch.randn(2, 3, 8, 8))
    (out["out"].sum() + out["aux"].sum()).backward()
    assert all(p.grad is not None for p in small.parameters())
    assert isinstance(wrapped.eval()(torch.randn(2, 3, 8, 8)), Tensor)
