"""Tables of relative positions on smaller feature maps, inside the pre-train network.

A table holds one entry for every distance between a row and a column of a matrix over pixels:
`matrix[i, j] = entries[i, j - i + first]`. On a smaller map a step is a longer way on the image, so
the pre-train network resizes the table over its distances, and reads what was resized.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def read_distances(entries: Tensor, columns: int, first: int) -> Tensor:
    """From relative to absolute positions: `result[..., i, j] = entries[..., i, j - i + first]`.

    **Arguments:**

    - `entries`: `(..., rows, distances)`; row `i` reads `columns` entries from `first - i` on.
    - `columns`: how many each row reads.
    - `first`: the entry of row 0 and column 0, at least `rows - 1`.

    **Returns:** `(..., rows, columns)`.
    """
    rows = entries.shape[-2]
    width = rows + columns - 1
    used = entries[..., first - rows + 1 : first + columns]
    # A column more moves every row one entry further than the row before it.
    moved = F.pad(used, (0, 1)).flatten(-2)[..., rows - 1 : rows - 1 + rows * width]
    return moved.reshape(*moved.shape[:-1], rows, width)[..., :columns]


def resize_distances(
    table: Tensor,
    dim: int,
    before: tuple[int, int, int, int],
    after: tuple[int, int, int, int],
    nearest: bool,
) -> Tensor:
    """Resize a table of relative positions over its distances; gradients flow back through it.

    An entry keeps its meaning, the distance on the image: what the target finds at distance
    `d * s`, with `s = rows / rows'`, the result holds at distance `d`. Between entries the table is
    taken to be linear, and averaged over the `s - 1` around, so that every entry takes part where
    distances become longer. A table that is linear in the distance stays exactly so.

    **Arguments:**

    - `table`: dimension `dim` has one entry for every distance.
    - `before`, `after`: number of entries, of rows and of columns, and the entry that row 0 reads
        in column 0. Rows and columns have one pitch and one centre on the image.
    - `nearest`: take the nearest entry instead of interpolating.

    **Returns:** the same tensor with `after[0]` entries along `dim`, in the same dtype.
    """
    scale = before[1] / after[1]
    half = max(scale - 1, 0.0) / 2
    small = torch.arange(after[0], dtype=torch.float64) - _zero(*after[1:])
    places = (_zero(*before[1:]) + scale * small).clamp(half, before[0] - 1 - half)
    if nearest:
        return table.index_select(dim, (places + 0.5).floor().long().to(table.device))
    off = places[:, None] - torch.arange(before[0], dtype=torch.float64)
    if half > 0:
        weights = (_hat_up_to(off + half) - _hat_up_to(off - half)) / (2 * half)
    else:
        weights = (1 - off.abs()).clamp(min=0)
    return (table.movedim(dim, -1) @ weights.to(table.dtype).to(table.device).T).movedim(-1, dim)


def _hat_up_to(x: Tensor) -> Tensor:
    """The integral of linear interpolation's weight, `1 - |x|` between -1 and 1, from -1 on."""
    x = x.clamp(-1, 1)
    return 0.5 + x - x * x.abs() / 2


def _zero(rows: int, columns: int, first: int) -> float:
    """The entry of distance zero, between the middle row and the middle column."""
    return first + ((columns - 1) - (rows - 1)) / 2
