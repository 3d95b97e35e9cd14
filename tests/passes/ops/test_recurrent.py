"""Recurrent layers read a sequence of pixels, however long it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, assert_same_outputs


def over_width(m: Any, x: Tensor) -> Any:
    return m.rnn(x.mean(2).permute(2, 0, 1))[0]


def batch_first(m: Any, x: Tensor) -> Any:
    output, _ = m.rnn(x.flatten(2).transpose(1, 2))
    return output[:, -1]


def last_state(m: Any, x: Tensor) -> Any:
    return m.rnn(x.mean(3).transpose(1, 2))[1]


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Any]]] = {
    "LSTM": (lambda: nn.LSTM(4, 3, 2, bidirectional=True), over_width),
    "GRU": (lambda: nn.GRU(4, 3, batch_first=True), batch_first),
    "RNN": (lambda: nn.RNN(4, 3, batch_first=True), last_state),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_length_of_a_sequence_is_free(name: str) -> None:
    factory, body = LAYERS[name]
    small = fxscale.downscale(Around(body, rnn=factory()), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body, rnn=factory()), torch.randn(2, 3, 8, 8))


def test_features_made_of_pixels_are_refused() -> None:
    model = Around(lambda m, x: m.rnn(x.mean(1))[0], rnn=nn.GRU(12, 3, batch_first=True))
    with pytest.raises(UnsupportedModelError, match="its features or its batch are made of pixels"):
        fxscale.downscale(model, 8, target_size=12)


def test_a_linear_layer_in_front_keeps_their_number() -> None:
    def body(m: Any, x: Tensor) -> Any:
        return m.rnn(m.fc(x.mean(1)))[0]

    model = Around(body, fc=nn.Linear(12, 5), rnn=nn.GRU(5, 3, batch_first=True))
    small = fxscale.downscale(model, 8, target_size=12)
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 8, 3)
