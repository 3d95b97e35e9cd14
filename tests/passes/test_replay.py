"""What a trace misses shows in a call: the network is the model, or it is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable

import fxscale
from fxscale.errors import UnsupportedModelError
from fxscale.passes import replay
from tests.passes.networks import Around, assert_same_outputs, traced


def matched(m: Any, x: Tensor) -> Any:
    match x:
        case torch.Tensor():
            return m.more(x)
        case _:
            return x


DECEIVED: dict[str, Callable[[Any, Tensor], Any]] = {
    "dtype": lambda m, x: m.more(x) if x.dtype is torch.float32 else x,
    "match": matched,
    "a class that a function stands for": (
        lambda m, x: m.more(x) if type(x.shape[2]) is int else x  # found in no function
    ),
    "proxy": lambda m, x: x if isinstance(x, torch.fx.Proxy) else m.more(x),
    "class": lambda m, x: m.more(x) if x.__class__ is torch.Tensor else x,
    "callable": lambda m, x: x if callable(x) else m.more(x),
    "another operator": lambda m, x: F.relu(x) if callable(x) else F.elu(x),
    "another shape": lambda m, x: x.mean(1 if callable(x) else 2),
    "in place": lambda m, x: x.mul_(2) if callable(x) else x * 2,
    "an item written": lambda m, x: x if callable(x) else x.index_put_((torch.tensor(0),), x[1]),
    "a weight": lambda m, x: x * (m.more.weight.mean() if callable(x) else m.more.bias.mean()),
    "a number": lambda m, x: x * (2 if callable(x) else 3),
    "in a layer of torch": lambda m, x: m.more(x) if callable(x) else F.conv2d(x, m.more.weight),
}


@pytest.mark.parametrize("name", DECEIVED)
def test_a_way_that_only_a_proxy_goes_is_refused(name: str) -> None:
    model = Around(DECEIVED[name], more=nn.Conv2d(4, 4, 3, padding=1))
    with pytest.raises(UnsupportedModelError, match="another way with a tensor than in its trace"):
        fxscale.downscale(model, 8, target_size=12)


def test_the_refusal_names_both_ways_and_the_place() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        x = F.relu(x)
        return x.sigmoid() if callable(x) else x.tanh()

    with pytest.raises(UnsupportedModelError) as raised:
        fxscale.downscale(Around(body), 8, target_size=12)
    assert "it calls tanh of (2, 4, 12, 12), the trace sigmoid of (2, 4, 12, 12)" in str(
        raised.value
    )
    assert raised.value.node == "sigmoid"
    assert "test_replay.py" in str(raised.value)


def test_the_refusal_names_the_numbers_where_nothing_else_differs() -> None:
    """A counter outside the model: each call has another number."""
    calls = iter(range(100))
    model = Around(lambda m, x: x * next(calls))
    with pytest.raises(UnsupportedModelError) as raised:
        fxscale.downscale(model, 8, target_size=12)
    assert re.search(
        r"it calls mul of \(2, 4, 12, 12\) with \d+, the trace mul of \(2, 4, 12, 12\) with 0",
        str(raised.value),
    )
    assert "an argument of forward" in str(raised.value.remedy)


def test_a_call_that_fails_where_its_trace_did_not() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return x if callable(x) else x[:, 9]

    with pytest.raises(UnsupportedModelError, match="can be traced, but not called on a fake"):
        fxscale.downscale(Around(body), 8, target_size=12)


def test_one_mode_is_enough_to_be_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return m.more(x) if m.training and not callable(x) else x

    model = Around(body, more=nn.Conv2d(4, 4, 3, padding=1))
    with pytest.raises(UnsupportedModelError, match="another way"):
        fxscale.downscale(model, 8, target_size=12)


class Shaken(nn.Module):
    """Draws numbers of its own, as stochastic depth does; fine in a layer that is kept whole."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.5)


FAITHFUL: dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, nn.Module]]] = {
    "constants of either": (lambda m, x: x + torch.arange(3).sum() * torch.ones(1), {}),
    "an attribute read early": (lambda m, x: (lambda t: F.relu(x) @ t)(x.mT), {}),
    "items of a tensor": (lambda m, x: (lambda a, b, *_: a + b)(*x.transpose(0, 1)), {}),
    "unbind": (lambda m, x: sum(x.unbind(1)), {}),
    "buffers that count": (lambda m, x: m.norm(x), {"norm": nn.BatchNorm2d(4)}),
    "hooks that write weights": (
        lambda m, x: m.more(x),
        {"more": nn.utils.spectral_norm(nn.Conv2d(4, 4, 1))},
    ),
    "dropout": (lambda m, x: m.drop(x), {"drop": nn.Dropout(0.0)}),
    "recurrent": (
        lambda m, x: m.lstm(x.mean(2).transpose(1, 2))[0],
        {"lstm": nn.LSTM(4, 5, batch_first=True)},
    ),
}


@pytest.mark.parametrize("name", FAITHFUL)
def test_what_a_trace_may_do_its_own_way(name: str) -> None:
    body, modules = FAITHFUL[name]
    model = Around(body, **modules)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = fxscale.downscale(model, 12, target_size=12, keep=["*"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert_same_outputs(small, Around(body, **modules), torch.randn(3, 3, 12, 12))


def test_random_numbers_are_given_back() -> None:
    model = Around(lambda m, x: m.shaken(x), shaken=Shaken())
    torch.manual_seed(0)
    random.seed(0)
    expected = torch.rand(1), random.random()
    torch.manual_seed(0)
    random.seed(0)
    traced(model, opaque_types=(Shaken,))
    assert (torch.rand(1), random.random()) == expected


def test_attributes_are_given_back() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        m.seen = x  # a cache that nobody reads
        return x + torch.ones(4, 1, 1)

    model = Around(body)
    assert not hasattr(traced(model).model, "seen")


def test_the_model_is_called_once_a_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = replay._call
    monkeypatch.setattr(replay, "_call", lambda m, x: (calls.append(m.training), original(m, x)))
    traced(Around(lambda m, x: x))
    assert calls == [True, False]


def test_constants_are_compared_by_what_is_in_them() -> None:
    """A generator that nobody knows of: each call has another tensor of the same shape."""
    generator = torch.Generator().manual_seed(0)
    model = Around(lambda m, x: x * torch.rand(4, 1, 1, generator=generator))
    with pytest.raises(UnsupportedModelError, match="forward goes another way"):
        fxscale.downscale(model, 8, target_size=12)


@pytest.mark.parametrize(
    "again", [lambda t: t, lambda t: Variable(t), lambda t: t.detach(), lambda t: t[:]]
)
def test_the_state_seen_anew_is_no_constant(again: Callable[[Tensor], Tensor]) -> None:
    """CondenseNet selects channels by `Variable(self.index)`, which no tracer hears of."""

    def body(m: Any, x: Tensor) -> Tensor:
        return x.index_select(1, again(m.order))

    def model() -> Around:
        net = Around(body)
        net.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        return net

    small = fxscale.downscale(model(), 8, target_size=12, keep=["*"])
    assert_same_outputs(small, model(), torch.randn(2, 3, 8, 8))
