"""The state maps: one per entry, with the views that lead back to the target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from fxscale.passes.invert import invert
from fxscale.plan import StateMap
from tests.passes.networks import Around, solved, traced


def state_of(model: nn.Module) -> dict[str, StateMap]:
    small = fxscale.downscale(model, 8, target_size=12)
    return {entry.key: entry for entry in small.plan.state}


class Everything(nn.Module):
    """Kernel, interface, feature parameter, BatchNorm buffers and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, padding=2)
        self.norm = nn.BatchNorm2d(4)
        self.embedding = nn.Parameter(torch.randn(1, 4, 12, 12))
        self.unused = nn.Parameter(torch.randn(3, 3))
        self.fc = nn.Linear(4 * 144, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)) + self.embedding
        out: Tensor = self.fc(x.flatten(1))
        return out


def test_every_entry_has_its_map_in_order() -> None:
    state = state_of(Everything())
    assert list(state) == list(Everything().state_dict())
    kinds = {key: entry.kind for key, entry in state.items() if entry.kind != "copy"}
    assert kinds == {"conv.weight": "kernel", "embedding": "feature", "fc.weight": "interface"}
    assert state["conv.weight"].pretrain_view == (4, 3, 3, 3)
    assert state["fc.weight"].pretrain_shape == (5, 4 * 64)
    assert state["fc.weight"].pretrain_view == (5, 4, 8, 8)
    assert state["fc.weight"].target_view == (5, 4, 12, 12)
    assert state["embedding"].pretrain_view == (1, 4, 8, 8) or (
        # axes of length one are dropped from views
        state["embedding"].pretrain_view == (4, 8, 8)
    )
    assert state["norm.num_batches_tracked"].pretrain_shape == ()


def test_the_amplitude_of_each_kind() -> None:
    state = state_of(Everything())
    assert state["conv.weight"].gain == pytest.approx((3 / 5) ** 2)
    assert state["fc.weight"].gain == pytest.approx((8 / 12) ** 2)
    assert state["embedding"].gain == 1


def test_permuted_interfaces_keep_their_order() -> None:
    body: Any = lambda m, x: m.fc(x.permute(0, 2, 3, 1).flatten(1))
    model = Around(body, fc=nn.Linear(576, 5))
    state = state_of(model)
    assert state["fc.weight"].target_view == (5, 12, 12, 4)
    height, width, channels = state["fc.weight"].pretrain_view[1:]
    assert height == width
    assert channels == 4


def test_the_network_computes_its_interface_from_the_upscaled_weight() -> None:
    # A weight that is constant over the pixels sums the map; the gain keeps mean-like sums.
    small = fxscale.downscale(Everything(), 8, target_size=12)
    with torch.no_grad():
        small.get_parameter("fc.weight").copy_(torch.ones(5, 4 * 64))
    large = fxscale.upscale_state(small)["fc.weight"]
    torch.testing.assert_close(large.sum(1), torch.full((5,), 4 * 64.0))


def test_tied_entries_share_one_map() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    state = state_of(nn.Sequential(conv, conv))
    assert state["0.weight"].pretrain_shape == state["1.weight"].pretrain_shape == (3, 3, 2, 2)


def test_extra_state_is_refused() -> None:
    class Extra(nn.Conv2d):
        def get_extra_state(self) -> object:
            return {"calls": 7}

        def set_extra_state(self, state: object) -> None:
            pass

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.unused = Extra(1, 1, 1)

        def forward(self, x: Tensor) -> Any:
            return self.conv(x)

    with pytest.raises(UnsupportedModelError, match=r"the state dict holds 'unused\._extra_state'"):
        fxscale.downscale(Net(), 8, target_size=12)


def test_a_tensor_used_in_two_ways_is_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 5, padding=2)
            self.b = nn.Conv2d(3, 3, 5, padding=2)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Any:
            return self.b(self.a(x))

    with pytest.raises(UnsupportedModelError, match="is used in two ways that scale differently"):
        fxscale.downscale(Tied(), 8, target_size=12, kernels={"a": 3})


def test_the_pass_alone() -> None:
    model = Everything()
    network, sites, geometry = solved(model, 12, 8)
    maps = invert(traced(model).model, network, sites, {"conv.weight": (3, 3)}, geometry.lengths)
    assert {m.key: m.target_shape for m in maps} == {
        key: tuple(value.shape) for key, value in model.state_dict().items()
    }
