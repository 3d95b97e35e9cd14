"""Relative positions that views make absolute, against tables resized and read by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.distances import resize_distances
from tests.fxscale.checks import assert_compiles
from tests.passes.networks import annotated, assert_same_outputs, layout

Absolute = Callable[[Tensor], Tensor]
Body = Callable[[Any, Tensor], Tensor]
LARGE, SMALL = 12, 8
CHANNELS = 8


class Attention(nn.Module):
    """A 3x3 convolution to eight channels, then `body(self, features)`.

    The tables hold an entry per distance of two pixels on a map of 12 pixels.
    """

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.across = nn.Parameter(torch.randn(2 * LARGE - 1, CHANNELS))
        self.down = nn.Parameter(torch.randn(2 * LARGE - 1, CHANNELS))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.conv(x))


def by_pads(x: Tensor) -> Tensor:
    """As in the first networks with such positions; `(..., L, 2 * L - 1)` to `(..., L, L)`."""
    n, rows, length, _ = x.shape
    x = x.reshape(-1, length, 2 * length - 1)
    moved = F.pad(F.pad(x, [0, 1]).flatten(1), [0, length - 1])
    x = moved.reshape(-1, length + 1, 2 * length - 1)[:, :length, length - 1 :]
    return x.reshape(n, rows, length, length)


def by_concatenation(x: Tensor) -> Tensor:
    n, rows, length, _ = x.shape
    x = torch.cat((x, torch.zeros((n, rows, length, 1)).to(x)), dim=3)
    x = x.view(n, rows, length * 2 * length)
    x = torch.cat((x, torch.zeros((n, rows, length - 1)).to(x)), dim=2)
    return x.view(n, rows, length + 1, 2 * length - 1)[:, :, :length, length - 1 :]


def by_numbers(x: Tensor) -> Tensor:
    """Sizes that stand in the code."""
    x = F.pad(x.reshape(-1, 12, 23), (0, 1)).reshape(-1, 288)[:, 11:287]
    return x.unflatten(1, (12, 23))[:, :, :12].reshape(-1, 12, 12, 12)


def by_product(queries: Tensor, table: Tensor) -> Tensor:
    return queries @ table.transpose(0, 1)


def by_einsum(queries: Tensor, table: Tensor) -> Tensor:
    """The parameter itself is multiplied, not a tensor that is computed from it."""
    return torch.einsum("nhwc,rc->nhwr", queries, table)


def attend(absolute: Absolute, multiplied: Callable[[Tensor, Tensor], Tensor] = by_product) -> Body:
    """Attention over all pixels, with logits of the distances across and down."""

    def body(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        queries = x.permute(0, 2, 3, 1)
        across = absolute(multiplied(queries, m.across))[:, :, :, None, :]
        queries = queries.transpose(1, 2)
        down = absolute(multiplied(queries, m.down)).transpose(1, 2)[..., None]
        logits = (across + down).reshape(n, h * w, h * w)
        x = x.flatten(2)
        return (x @ (x.mT @ x + logits).softmax(-1).mT).reshape(n, c, h, w)

    return body


def by_hand(length: int) -> Body:
    """The same with tables of the target, resized and read at every pair of pixels."""

    def read(table: Tensor) -> Tensor:
        ends = (LARGE, LARGE, LARGE - 1), (length, length, length - 1)
        small = resize_distances(
            table, 0, (2 * LARGE - 1, *ends[0]), (2 * length - 1, *ends[1]), False
        )
        places = torch.arange(length)
        return small[places - places[:, None] + length - 1]

    def body(m: Any, x: Tensor) -> Tensor:
        across = torch.einsum("nchw,wkc->nhwk", x, read(m.across))[:, :, :, None, :]
        down = torch.einsum("nchw,hkc->nhwk", x, read(m.down))[..., None]
        logits = (across + down).flatten(3).flatten(1, 2)
        flat = x.flatten(2)
        return (flat @ (flat.mT @ flat + logits).softmax(-1).mT).view_as(x)

    return body


WAYS: dict[str, Absolute] = {
    "pads": by_pads,
    "concatenation": by_concatenation,
    "numbers": by_numbers,
}


@pytest.mark.parametrize("name", WAYS)
def test_distances_on_the_image_keep_their_entries(name: str) -> None:
    model = Attention(attend(WAYS[name]))
    small = fxscale.downscale(model, SMALL, target_size=LARGE, kernels={"conv": 3})
    assert small.across.shape == (2 * LARGE - 1, CHANNELS)
    assert_same_outputs(small, Attention(by_hand(SMALL)), torch.randn(2, 3, SMALL, SMALL))
    assert_same_outputs(model, Attention(by_hand(LARGE)), torch.randn(2, 3, LARGE, LARGE))


def test_a_parameter_that_is_multiplied_itself_keeps_its_size() -> None:
    model = Attention(attend(by_pads, by_einsum))
    small = fxscale.downscale(model, SMALL, target_size=LARGE, kernels={"conv": 3})
    assert small.across.shape == (2 * LARGE - 1, CHANNELS)
    assert_same_outputs(small, Attention(by_hand(SMALL)), torch.randn(2, 3, SMALL, SMALL))


def test_the_network_lives_on_as_any_other() -> None:
    model = Attention(attend(by_pads))
    small = fxscale.downscale(model, SMALL, target_size=LARGE)
    image = torch.randn(2, 3, SMALL, SMALL)
    assert torch.equal(copy.deepcopy(small)(image), small(image))
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), small(image))


def test_the_network_goes_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    small = fxscale.downscale(Attention(attend(by_pads)), SMALL, target_size=LARGE)
    fxscale.export_onnx(small, tmp_path / "small.onnx")
    report = fxscale.validate_onnx(tmp_path / "small.onnx", small)
    assert report.equal, str(report)


@pytest.mark.parametrize("name", WAYS)
def test_networks_with_relative_positions_compile(name: str) -> None:
    assert_compiles(Attention(attend(WAYS[name])), LARGE, SMALL)


def test_tables_go_back_as_they_are() -> None:
    model = Attention(attend(by_pads))
    small = fxscale.downscale(model, SMALL, target_size=LARGE)
    with torch.no_grad():
        small.across.normal_()
    assert torch.equal(fxscale.upscale_state(small)["across"], small.across)


def test_a_table_has_the_distances_between_the_queries_and_the_keys() -> None:
    network = annotated(Attention(attend(by_pads)), LARGE)
    assert layout(network, "matmul") == "() (~12) (~12) (23 distances)".replace("()", "(2)")


def one_row_each(m: Any, x: Tensor) -> Tensor:
    """Nothing says which pixels the columns are."""
    queries = x.permute(0, 2, 3, 1)
    return by_pads(queries @ m.across.mT).mean((2, 3))


def test_distances_without_keys_are_refused() -> None:
    reason = "reads relative positions, but not the distances"
    with pytest.raises(fxscale.UnsupportedModelError, match=reason):
        fxscale.downscale(Attention(one_row_each), SMALL, target_size=LARGE)


def test_next_rows_are_not_taken_for_distances() -> None:
    """The shift of Transformer-XL leaves entries of the next row where the keys come later."""

    def shifted(x: Tensor) -> Tensor:
        n, rows, length, _ = x.shape
        x = F.pad(x[..., :length], (1, 0)).reshape(n, rows, length + 1, length)
        return x[:, :, 1:].reshape(n, rows, length, length)

    with pytest.raises(fxscale.UnsupportedModelError):
        fxscale.downscale(Attention(attend(shifted)), SMALL, target_size=LARGE)
