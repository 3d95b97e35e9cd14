"""Tables of relative positions, resized and read, against loops in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fxscale.distances import read_distances, resize_distances

TABLES = [
    # entries, rows, columns, first: before and after
    ((27, 14, 14, 13), (19, 10, 10, 9)),  # the distances within one map
    ((13, 7, 7, 6), (9, 5, 5, 4)),
    ((31, 16, 16, 15), (7, 4, 4, 3)),  # four times smaller
    ((27, 8, 14, 13), (21, 6, 10, 11)),  # columns around the rows, entries that nobody reads
    ((15, 8, 8, 7), (15, 8, 8, 7)),
    ((9, 5, 5, 4), (13, 7, 7, 6)),
    ((13, 7, 7, 6), (1, 1, 1, 0)),
]


@pytest.mark.parametrize(
    ("entries", "rows", "columns", "first"), [(13, 7, 7, 6), (27, 8, 14, 13), (9, 2, 3, 4)]
)
def test_every_row_reads_one_entry_further_left(
    entries: int, rows: int, columns: int, first: int
) -> None:
    source = torch.randn(2, 3, rows, entries)
    result = read_distances(source, columns, first)
    assert result.shape == (2, 3, rows, columns)
    for i in range(rows):
        for j in range(columns):
            assert torch.equal(result[..., i, j], source[..., i, j - i + first])


@pytest.mark.parametrize(("before", "after"), TABLES)
def test_an_entry_is_the_mean_around_its_distance_on_the_image(
    before: tuple[int, int, int, int], after: tuple[int, int, int, int]
) -> None:
    table = torch.randn(before[0], 3, dtype=torch.float64)
    result = resize_distances(table, 0, before, after, False)
    assert result.shape == (after[0], 3)
    scale = before[1] / after[1]
    for i in range(after[1]):
        for j in range(after[2]):
            far = scale * ((j - (after[2] - 1) / 2) - (i - (after[1] - 1) / 2))
            place = far + before[3] + (before[2] - 1) / 2 - (before[1] - 1) / 2
            expected = mean_around(table, place, max(scale - 1, 0))
            torch.testing.assert_close(result[j - i + after[3]], expected, atol=1e-5, rtol=0)


def mean_around(table: Tensor, place: float, width: float, samples: int = 4000) -> Tensor:
    """The mean over `width` of the table, which is linear between its entries."""
    steps = (torch.arange(samples).double() + 0.5) / samples - 0.5
    at = (place + width * steps).clamp(0, len(table) - 1)
    low = at.floor().long().clamp(0, len(table) - 2)
    part = (at - low)[:, None]
    return (table[low] * (1 - part) + table[low + 1] * part).mean(0)


@pytest.mark.parametrize(("before", "after"), TABLES[:5])
def test_what_is_linear_in_the_distance_stays_so(
    before: tuple[int, int, int, int], after: tuple[int, int, int, int]
) -> None:
    table = distances(before)[None]
    expected = distances(after) * before[1] / after[1]
    used = slice(after[3] - after[1] + 1, after[3] + after[2])
    result = resize_distances(table, 1, before, after, False)[0]
    torch.testing.assert_close(result[used], expected[used])


def distances(table: Sequence[int]) -> Tensor:
    """The distance that every entry stands for, from the middle row to the middle column."""
    entries, rows, columns, first = table
    return torch.arange(entries).double() - first - (columns - rows) / 2


@pytest.mark.parametrize(("before", "after"), [table for table in TABLES if table[1][0] > 1])
def test_every_entry_is_trained_but_for_distances_that_no_pixels_have(
    before: tuple[int, int, int, int], after: tuple[int, int, int, int]
) -> None:
    table = torch.zeros(before[0], requires_grad=True)
    small = resize_distances(table, 0, before, after, False)
    small[after[3] - after[1] + 1 : after[3] + after[2]].sum().backward()
    assert table.grad is not None
    furthest = (after[1] + after[2]) / 2 - 0.5  # half a pixel beyond the middle of the last one
    near = distances(before).abs() < furthest * before[1] / after[1]
    assert (table.grad[near] > 0).all()


def test_masks_take_the_nearest_distance() -> None:
    mask = torch.arange(13) % 2 == 0
    result = resize_distances(mask, 0, (13, 7, 7, 6), (9, 5, 5, 4), True)
    nearest = [int(6 + 1.4 * far + 0.5) for far in range(-4, 5)]
    assert torch.equal(result, mask[nearest])


def test_the_same_size_changes_nothing_and_keeps_the_dtype() -> None:
    table = torch.randn(5, 15, dtype=torch.bfloat16)
    same = resize_distances(table, 1, (15, 8, 8, 7), (15, 8, 8, 7), False)
    assert same.dtype == torch.bfloat16
    assert torch.equal(same, table)
