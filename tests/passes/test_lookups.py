"""Tables read at places computed from sizes, against the target's tables resized by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from tests.passes.networks import (
    assert_gradients_reach_every_parameter,
    assert_identical_at_its_own_size,
    assert_same_outputs,
)
from tests.passes.ops.test_constant import on_rows

Body = Callable[[Any, Tensor], Tensor]
LARGE, SMALL = 12, 8


class Positions(nn.Module):
    """A 3x3 convolution to four channels, then `body(self, features)`.

    `table` and `embedding` have an entry per distance of two rows on a map of 12 rows.
    """

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.table = nn.Parameter(torch.randn(2 * LARGE - 1, 4))
        self.embedding = nn.Embedding(2 * LARGE - 1, 4)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.conv(x))


def distances(rows: int) -> Tensor:
    places = torch.arange(rows)
    return places[:, None] - places[None, :] + (rows - 1)


def attend(x: Tensor, far: Tensor) -> Tensor:
    """Attention between rows; `far`, `(H, K, C)`, is the embedding of every distance."""
    queries = x.mean(3).transpose(1, 2)
    weights = queries @ queries.transpose(1, 2) + torch.einsum("nhc,hkc->nhk", queries, far)
    return x * (weights.softmax(-1) @ queries).transpose(1, 2)[..., None] + x


def by_index(m: Positions, x: Tensor) -> Tensor:
    return attend(x, m.table[distances(x.shape[2])])


def by_index_select(m: Positions, x: Tensor) -> Tensor:
    near = m.table.index_select(0, torch.arange(x.shape[2], device=x.device))
    return x + near.t()[None, :, :, None]


def by_embedding(m: Positions, x: Tensor) -> Tensor:
    return attend(x, m.embedding(distances(x.size(2)).long()))


def by_function(m: Positions, x: Tensor) -> Tensor:
    return attend(x, F.embedding(distances(x.size(2)), m.embedding.weight))


def by_list(m: Positions, x: Tensor) -> Tensor:
    rows = x.shape[2]
    return attend(x, m.table[distances(rows).flatten()].view(rows, rows, 4))


def both_sides(table: Tensor) -> Tensor:
    """The target's embeddings of all distances, linearly resized along queries and keys."""
    far = table[distances(LARGE)].permute(2, 0, 1)
    return on_rows(on_rows(far, SMALL).mT, SMALL).mT.permute(1, 2, 0)


def expected_table(m: Positions, x: Tensor) -> Tensor:
    return attend(x, both_sides(m.table))


def expected_embedding(m: Positions, x: Tensor) -> Tensor:
    return attend(x, both_sides(m.embedding.weight))


def expected_rows(m: Positions, x: Tensor) -> Tensor:
    return x + on_rows(m.table[:LARGE].t(), SMALL)[None, :, :, None]


CASES: dict[str, tuple[Body, Body]] = {
    "index": (by_index, expected_table),
    "a list, folded into rows": (by_list, expected_table),
    "index_select": (by_index_select, expected_rows),
    "nn.Embedding": (by_embedding, expected_embedding),
    "F.embedding": (by_function, expected_embedding),
}


@pytest.mark.parametrize("name", CASES)
def test_a_distance_on_the_image_keeps_its_entry(name: str) -> None:
    body, expected = CASES[name]
    model = Positions(body)
    small = fxscale.downscale(model, SMALL, target_size=LARGE, kernels={"conv": 3})
    assert small.table.shape == model.table.shape
    assert_same_outputs(small, Positions(expected), torch.randn(2, 3, SMALL, SMALL))
    model.load_state_dict(fxscale.upscale_state(small))


@pytest.mark.parametrize("name", CASES)
def test_the_same_size_is_the_target_bit_for_bit(name: str) -> None:
    assert_identical_at_its_own_size(Positions(CASES[name][0]), LARGE)


def test_gradients_reach_the_table() -> None:
    def body(m: Positions, x: Tensor) -> Tensor:
        return by_index(m, x) + by_embedding(m, x)

    small = fxscale.downscale(Positions(body), SMALL, target_size=LARGE)
    assert_gradients_reach_every_parameter(small, torch.randn(2, 3, SMALL, SMALL))


def test_places_that_are_changed_in_place_are_refused() -> None:
    def body(m: Positions, x: Tensor) -> Tensor:
        places = distances(x.shape[2])
        places.clamp_(min=3)
        return attend(x, m.table[places])

    with pytest.raises(fxscale.UnsupportedModelError, match="changes in place") as refused:
        fxscale.downscale(Positions(body), SMALL, target_size=LARGE)
    assert "without in-place operators" in str(refused.value)
