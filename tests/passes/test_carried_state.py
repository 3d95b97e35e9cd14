"""What a call of `forward` leaves in attributes for the next one: of no effect, or refused."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around


class Initialised(nn.Module):
    """Scales its first images, as ActNorm does to find its parameters, and not those behind."""

    def __init__(self, *, ready: bool = False) -> None:
        super().__init__()
        self.ready = ready

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.ready = True
            return 2 * x
        return x


class WithoutInit(nn.Module):
    """The same with an attribute that is not there before the first call."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "ready"):
            self.ready = True
            return 2 * x
        return x


class Counted(nn.Module):
    """Does something else from a call on that `after` says."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.calls = after, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return -x if self.calls > self.after else x


class Annealed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.temperature *= 0.99
        return x / self.temperature


class Recorded(nn.Module):
    """Counts in a table, as `Counted` does."""

    def __init__(self) -> None:
        super().__init__()
        self.record = {"calls": 0, "others": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.record["calls"] += 1
        return -x if self.record["calls"] > 9 else x


class Remembers(nn.Module):
    """Writes what it reads in the same call, and a counter that decides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.height: int | None = None
        self.name = ""
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.height = x.shape[2]
        self.name = f"{x.ndim}d"
        self.seen = True
        return x.reshape(x.shape[0], x.shape[1], self.height, -1) * 2


@pytest.mark.parametrize(
    "part", [Initialised(), WithoutInit(), Counted(1), Counted(500), Annealed(), Recorded()]
)
def test_what_decides_in_the_next_call_is_refused(part: nn.Module) -> None:
    model = Around(lambda m, x: m.part(x), part=part)
    before = copy.deepcopy(vars(part))
    with pytest.raises(UnsupportedModelError, match="what the last one left in an attribute") as e:
        fxscale.downscale(model, 8, target_size=12)
    assert f"{type(part).__name__}." in str(e.value)
    assert vars(part) == before


@pytest.mark.parametrize("part", [Initialised(ready=True), Remembers()])
def test_what_decides_nothing_is_as_before(part: Any) -> None:
    model = Around(lambda m, x: m.part(x), part=part)
    before = dict(vars(part))
    same = fxscale.downscale(model, 12, target_size=12, keep=["*"])
    same.load_state_dict(model.state_dict())
    assert vars(part) == before
    images = torch.randn(2, 3, 12, 12)
    for _ in range(2):
        assert torch.equal(same(images), model(images))


class Recurrent(nn.Module):
    """Goes on from the map that the last call has left."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = x if self.hidden is None else 0.5 * self.hidden + x
        return self.hidden


class Bank(nn.Module):
    """Collects means, and compares with all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.means.append(x.mean((2, 3)))
        return x * torch.stack(self.means).mean(0)[:, :, None, None]


class Queue(nn.Module):
    """Subtracts what it was given three calls ago."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: deque[Tensor] = deque(maxlen=3)

    def forward(self, x: Tensor) -> Tensor:
        self.maps.append(x)
        return x - self.maps[0]


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        y = x - self.last["map"] if "map" in self.last else x
        self.last["map"] = x
        return y


@pytest.mark.parametrize("part", [Recurrent(), Bank(), Queue(), ByName()])
def test_maps_that_the_next_call_reads_are_refused(part: nn.Module) -> None:
    model = Around(lambda m, x: m.part(x), part=part)
    with pytest.raises(UnsupportedModelError, match="what the last one left in an attribute"):
        fxscale.downscale(model, 8, target_size=12)


class Watched(nn.Module):
    """Leaves maps for whoever looks at them, and a grid for its own next call."""

    def __init__(self) -> None:
        super().__init__()
        self.map: Tensor | None = None
        self.maps: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.map = x
        self.maps.append(x)
        self.by_name["x"] = x
        if self.grid is None:
            self.grid = torch.arange(x.shape[-1], dtype=x.dtype) / x.shape[-1]
        return x * self.grid


def test_maps_that_are_only_left_are_dropped() -> None:
    model = Around(lambda m, x: m.part(x), part=Watched())
    same = fxscale.downscale(model, 12, target_size=12, keep=["*"])
    images = torch.randn(2, 3, 12, 12)
    assert torch.equal(same(images), model(images))
    assert (model.part.map is None, model.part.maps == []) == (False, False)


class KeptForEvaluation(nn.Module):
    """Leaves a mean in train mode, which eval mode reads."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = x.detach().mean((0, 2, 3), keepdim=True)
            return x
        return x if self.mean is None else x - self.mean


def test_what_one_mode_leaves_and_the_other_reads_is_refused() -> None:
    model = Around(lambda m, x: m.part(x), part=KeptForEvaluation())
    with pytest.raises(UnsupportedModelError, match=r"forward assigns to KeptForEvaluation\.mean"):
        fxscale.downscale(model, 8, target_size=12)
    assert model.part.mean is None
