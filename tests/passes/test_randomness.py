"""Random numbers are drawn anew in every call, or the network is refused."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around


def half_of_the_batch(m: Any, x: Tensor) -> Tensor:
    """Stochastic depth, a decision a sample."""
    kept = torch.rand(x.shape[0], 1, 1, 1) < 0.5
    return torch.where(kept, x, -x)


DRAWN_ANEW = [
    lambda m, x: x + torch.randn_like(x),
    lambda m, x: x + torch.randn(x.shape[1], 1, 1),
    lambda m, x: F.dropout(x, 0.5, training=True),
    lambda m, x: x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.5),
    half_of_the_batch,
]


@pytest.mark.parametrize("body", DRAWN_ANEW)
def test_what_the_sizes_of_an_input_decide_is_drawn_in_every_call(body: Any) -> None:
    model = Around(body)
    same = fxscale.downscale(model, 12, target_size=12, keep=["*"])
    same.load_state_dict(model.state_dict())
    images = torch.randn(4, 3, 12, 12)
    for number in range(3):
        torch.manual_seed(number)
        expected = model(images)
        torch.manual_seed(number)
        assert torch.equal(same(images), expected)


def states() -> list[bytes]:
    """Of all generators: torch's, Python's and NumPy's."""
    found = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()
    return [pickle.dumps(state) for state in found]


DRAWN_ONCE = [
    lambda m, x: x + torch.randn(4, 1, 1),
    lambda m, x: x + 1 if torch.rand(1) < 0.5 else -x,
    lambda m, x: x * torch.empty(4, 1, 1).normal_(),
    lambda m, x: x + 1 if random.random() < 0.5 else -x,
    lambda m, x: x + 1 if np.random.rand() < 0.5 else -x,  # as models do
]


@pytest.mark.parametrize("body", DRAWN_ONCE)
def test_what_the_trace_would_draw_once_and_for_all_is_refused(body: Any) -> None:
    model = Around(body)
    before = states()
    with pytest.raises(UnsupportedModelError, match="draws random numbers that its graph") as error:
        fxscale.downscale(model, 8, target_size=12)
    assert states() == before
    assert error.value.node
    assert str(error.value.source).startswith(__file__)


def test_a_draw_behind_the_last_node_is_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        result = -x
        torch.rand(1)
        return result

    model = Around(body)
    with pytest.raises(UnsupportedModelError, match="draws random numbers behind its last node"):
        fxscale.downscale(model, 8, target_size=12)


def test_generators_of_cuda_are_looked_at_where_it_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a generator in place of CUDA's."""
    state = [torch.zeros(16, dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [s.clone() for s in state])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state_all", lambda new: state.__setitem__(slice(None), new)
    )

    def drawing(m: Any, x: Tensor) -> Tensor:
        state[0] = state[0] + 1
        return x * 2

    with pytest.raises(UnsupportedModelError, match="draws random numbers that its graph"):
        fxscale.downscale(Around(drawing), 8, target_size=12)
    assert not state[0].any()
    assert fxscale.downscale(Around(lambda m, x: x * 2), 8, target_size=12)


@pytest.mark.gpu
def test_what_a_gpu_would_draw_once_and_for_all_is_refused() -> None:
    model = Around(lambda m, x: x + torch.randn(4, 1, 1, device="cuda")).cuda()
    before = torch.cuda.get_rng_state()
    with pytest.raises(UnsupportedModelError, match="draws random numbers that its graph"):
        fxscale.downscale(model, 8, target_size=12)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_generators_of_the_model_itself_are_looked_at() -> None:
    model = Around(lambda m, x: x * torch.rand(4, 1, 1, generator=m.generator))
    model.generator = torch.Generator().manual_seed(0)
    before = model.generator.get_state()
    with pytest.raises(UnsupportedModelError, match="draws random numbers"):
        fxscale.downscale(model, 8, target_size=12)
    assert torch.equal(model.generator.get_state(), before)
