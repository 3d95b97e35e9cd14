"""Constants whose axes show what they stand for only behind further operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from tests.passes.networks import (
    annotated,
    assert_identical_at_its_own_size,
    assert_same_outputs,
    layout,
)
from tests.passes.ops.test_constant import on_rows

Body = Callable[[Any, Tensor], Tensor]
LARGE, SMALL = 12, 8


class Mixed(nn.Module):
    """A 3x3 convolution to four channels, then `body(self, features, self.tables())`.

    The tables are `(H, K, C)` and `(W,)` over the rows, rows and columns of a map of 12x12 pixels.
    """

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.far = nn.Parameter(torch.randn(LARGE, LARGE, 4))
        self.weights = nn.Parameter(torch.randn(LARGE))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.conv(x))


def rows_and_keys(far: Tensor, x: Tensor) -> Tensor:
    """`k` meets the rows of the keys only in the sum of both terms."""
    queries = x.mean(3)
    logits = torch.einsum("nch,hkc->nhk", queries, far) + queries.mT @ queries
    return torch.einsum("nhk,nckw->nchw", logits.softmax(-1), x)


def resized(far: Tensor) -> Tensor:
    far = far.permute(2, 0, 1)
    return on_rows(on_rows(far, SMALL).mT, SMALL).mT.permute(1, 2, 0)


def average_of_rows(weights: Tensor, x: Tensor) -> Tensor:
    return x * torch.einsum("nchw,h->ncw", x, weights).unsqueeze(2)


def rows_and_columns(down: Tensor, across: Tensor, x: Tensor) -> Tensor:
    """Rows and columns of the keys meet the map together, when they are flattened."""
    n, c, h, w = x.shape
    rows = torch.einsum("nchw,hkc->nhwk", x, down)
    columns = torch.einsum("nchw,wkc->nhwk", x, across)
    logits = (rows[..., None] + columns[..., None, :]).reshape(n, h * w, h * w)
    x = x.flatten(2)
    return (x @ (x.mT @ x + logits).softmax(-1).mT).view(n, c, h, w)


CASES: dict[str, tuple[Body, Body]] = {
    "flattened": (
        lambda m, x: rows_and_columns(2 * m.far, m.far.flip(0), x),
        lambda m, x: rows_and_columns(resized(2 * m.far), resized(m.far.flip(0)), x),
    ),
    "computed": (
        lambda m, x: rows_and_keys(2 * m.far, x),
        lambda m, x: rows_and_keys(resized(2 * m.far), x),
    ),
    "summed over": (
        lambda m, x: average_of_rows(2 * m.weights, x),
        # A sum over 8 rows instead of 12 keeps its amplitude.
        lambda m, x: average_of_rows(on_rows(2 * m.weights, SMALL), x) * (LARGE / SMALL),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_constants_follow_the_axes_that_they_meet_later(name: str) -> None:
    body, expected = CASES[name]
    model = Mixed(body)
    small = fxscale.downscale(model, SMALL, target_size=LARGE, kernels={"conv": 3})
    by_hand = Mixed(expected)
    assert_same_outputs(small, by_hand, torch.randn(2, 3, SMALL, SMALL))
    model.load_state_dict(fxscale.upscale_state(small))


@pytest.mark.parametrize("name", CASES)
def test_the_same_size_is_the_target_bit_for_bit(name: str) -> None:
    assert_identical_at_its_own_size(Mixed(CASES[name][0]), LARGE)


def test_state_is_resized_itself() -> None:
    model = Mixed(lambda m, x: rows_and_keys(m.far, x) + average_of_rows(m.weights, x))
    small = fxscale.downscale(model, SMALL, target_size=LARGE, kernels={"conv": 3})
    assert small.far.shape == (SMALL, SMALL, 4)
    assert small.weights.shape == (SMALL,)
    state = fxscale.upscale_state(small)
    assert state["far"].shape == (LARGE, LARGE, 4)
    model.load_state_dict(state)


def test_the_walk_ends_with_both_axes_of_the_constant_found() -> None:
    network = annotated(Mixed(lambda m, x: rows_and_keys(m.far, x)), LARGE)
    rows = layout(network, "far")
    assert rows == "(~12) (~12) (4)"
