"""Blocks with a halo, against the same networks with smaller blocks and halos written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.distances import resize_distances
from tests.fxscale.checks import assert_compiles
from tests.passes.networks import Around, annotated, assert_same_outputs, layout

Body = Callable[[Any, Tensor], Tensor]


def blocks_of(x: Tensor, size: int) -> Tensor:
    """`(N, C, H, W)` to `(N, blocks, size, size, C)`."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(n, (h // size) * (w // size), size, size, c)


def around_blocks(x: Tensor, size: int, halo: int) -> Tensor:
    """`(N, C, H, W)` to `(N, blocks, (size + 2 * halo) ** 2, C)`."""
    n, c, h, w = x.shape
    window = size + 2 * halo
    x = F.pad(x, (halo, halo, halo, halo)).unfold(2, window, size).unfold(3, window, size)
    return x.reshape(n, c, (h // size) * (w // size), -1).permute(0, 2, 3, 1)


def laid_back(blocks: Tensor, h: int, w: int, size: int) -> Tensor:
    n, _, _, c = blocks.shape
    x = blocks.reshape(n, h // size, w // size, size, size, c).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, c, h, w)


def halo_attention(size: int, halo: int) -> Body:
    def body(m: Any, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        queries, keys = blocks_of(x, size).flatten(2, 3), around_blocks(x, size, halo)
        return x + laid_back((queries @ keys.mT).softmax(-1) @ keys, h, w, size)

    return body


# target, pre-train size, blocks and halos in both
SIZES = {
    "smaller blocks": (16, 12, (8, 3), (6, 2)),
    "one block": (8, 6, (8, 3), (6, 2)),
    "fewer blocks": (12, 8, (4, 1), (4, 1)),
}


@pytest.mark.parametrize("name", SIZES)
def test_blocks_and_halos_become_smaller_together(name: str) -> None:
    target, size, large, small = SIZES[name]
    result = fxscale.downscale(
        Around(halo_attention(*large)), size, target_size=target, kernels={"conv": 3}
    )
    assert_same_outputs(result, Around(halo_attention(*small)), torch.randn(2, 3, size, size))


@pytest.mark.parametrize("name", SIZES)
def test_networks_with_halos_compile(name: str) -> None:
    target, size, large, _ = SIZES[name]
    assert_compiles(Around(halo_attention(*large), channels=8), target, size)


def test_a_window_is_a_block_and_its_halo() -> None:
    network = annotated(Around(halo_attention(8, 3)), 16)
    assert layout(network, "pad") == "(2) (4) (~16 and a halo) (~16 and a halo)"
    assert layout(network, "unfold_1") == "(2) (4) (~2) (~2) (~14) (~14)"


def patches_as_channels(m: Any, x: Tensor) -> Tensor:
    x = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)
    n, c, h, w = x.shape[:4]
    return m.mix(x.permute(0, 1, 4, 5, 2, 3).reshape(n, c * 16, h, w))


def test_windows_whose_pixels_become_channels_keep_their_size() -> None:
    def network() -> Around:
        return Around(patches_as_channels, mix=nn.Conv2d(64, 4, 1))

    result = fxscale.downscale(network(), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(result, network(), torch.randn(2, 3, 8, 8))


class Relative(nn.Module):
    """Attention of blocks to their surroundings, with logits of the distances across."""

    def __init__(self, size: int, halo: int, table: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.size, self.halo, self.window = size, halo, size + 2 * halo
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.across = nn.Parameter(torch.randn(2 * 14 - 1, 8))
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        h, w = x.shape[2:]
        queries, keys = blocks_of(x, self.size), around_blocks(x, self.size, self.halo)
        n, blocks, _, _, c = queries.shape
        entries = queries.reshape(-1, self.size, self.size, c) @ self.table(self.across).mT
        far = self.read(entries)
        far = far.reshape(n * blocks, self.size, self.size, 1, self.window)
        far = far.expand(-1, -1, -1, self.window, -1)
        logits = queries.flatten(2, 3) @ keys.mT
        logits = logits + far.reshape(n, blocks, self.size**2, -1)
        return x + laid_back(logits.softmax(-1) @ keys, h, w, self.size)

    def read(self, entries: Tensor) -> Tensor:
        """Column `j` of row `i` has the entry `j - i + window - 1`."""
        count = self.across.shape[0]
        moved = F.pad(entries.reshape(-1, self.size, count), (0, 1)).flatten(1)
        moved = F.pad(moved, (0, count - self.size)).reshape(-1, self.size + 1, count)
        return moved[:, : self.size, self.window - 1 :]


class ReadByHand(Relative):
    def read(self, entries: Tensor) -> Tensor:
        rows, columns = torch.arange(self.size)[:, None], torch.arange(self.window)
        first = entries.shape[-1] - self.window
        places = (columns - rows + first).expand(*entries.shape[:-2], -1, -1)
        return entries.gather(-1, places)


def test_distances_to_a_halo_keep_their_entries() -> None:
    model = Relative(8, 3, lambda table: table)
    result = fxscale.downscale(model, 12, target_size=16, kernels={"conv": 3})
    # Six entries in front are never read, in either network.
    by_hand = ReadByHand(
        6, 2, lambda table: resize_distances(table, 0, (27, 8, 14, 13), (21, 6, 10, 11), False)
    )
    assert_same_outputs(result, by_hand, torch.randn(2, 3, 12, 12))
    assert torch.equal(fxscale.upscale_state(result)["across"], result.across)


def test_networks_with_distances_to_a_halo_compile() -> None:
    assert_compiles(Relative(8, 3, lambda table: table), 16, 12)


def windows_of_two_sizes(m: Any, x: Tensor) -> Tensor:
    padded = F.pad(x, (0, 0, 1, 1))
    return padded.unfold(2, 6, 4).mean((2, 4)) + padded.unfold(2, 4, 2).mean((2, 4))


def pooled_as_well(m: Any, x: Tensor) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1))
    return F.max_pool2d(padded, 2).mean((2, 3)) + padded.unfold(2, 6, 4).mean((2, 3, 4))


REFUSED = {
    "two sizes": (windows_of_two_sizes, "windows of two sizes out of one padded map"),
    "pooled": (pooled_as_well, "a padded map of which overlapping windows are taken"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_uses_of_a_padded_map_are_refused(name: str) -> None:
    body, reason = REFUSED[name]
    with pytest.raises(fxscale.UnsupportedModelError, match=reason):
        fxscale.downscale(Around(body), 8, target_size=12)
