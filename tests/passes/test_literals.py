"""Numbers that stand for a length which scales."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import Tensor

from fxscale.passes.axes import target_length
from tests.passes.networks import Around, annotated


def replaced(body: Callable[[Around, Tensor], Tensor]) -> list[tuple[str, int | str, int]]:
    """`(node, position, length in the target)` of the numbers replaced in arithmetic on sizes."""
    network = annotated(Around(body))
    return [
        (s.node.name, s.argument, target_length(s.value))
        for s in network.substitutions
        if s.node.op == "call_function" and isinstance(s.argument, int) and s.node.name != "pad"
    ]


def windows(m: Around, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h // 4, 4, w)


def padded(m: Around, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    below = (5 - h % 5) % 5
    x = F.pad(x, (0, 0, 0, below))
    return x.view(n, c, (h + below) // 5, 5, w)


def compared(m: Around, x: Tensor) -> Tensor:
    return x if x.shape[2] == 12 and x.shape[3] <= 12 and x.shape[2] > 7 else -x


def one_window(m: Around, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    assert h % 12 == 0
    return x.view(n, c, h // 12, 12, w)


def other_arithmetic(m: Around, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h, 3, w // 3) if h // 4 + 4 > 3 else x


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (windows, [("floordiv", 1, 4)]),
        (
            padded,
            [("mod", 1, 5), ("sub", 0, 5), ("mod_1", 1, 5), ("floordiv", 1, 5)],
        ),
        (compared, [("eq", 1, 12), ("le", 1, 12)]),
        (one_window, [("mod", 1, 12), ("floordiv", 1, 12)]),
        (other_arithmetic, [("floordiv_1", 1, 3)]),  # the 4 and the 3 about h are just numbers
    ],
)
def test_replaced_numbers(
    body: Callable[[Around, Tensor], Tensor], expected: list[tuple[str, int, int]]
) -> None:
    assert replaced(body) == expected
