"""What proxies answer for the values that they stand for."""

from __future__ import annotations

import builtins
from typing import Any

import torch
from torch import Tensor, nn

from fxscale.passes.proxies import ValueProxy, class_of
from tests.passes.networks import Around, traced


def test_the_class_that_is_written_down_is_the_values() -> None:
    seen: list[Any] = []

    def body(m: Any, x: Tensor) -> Tensor:
        if isinstance(x, ValueProxy):
            height = x.shape[2]
            seen.extend((x.__class__, x.__class__.__name__, height.__class__))
            seen.append(builtins.isinstance(x, torch.Tensor))  # which asks for it, too
        return torch.relu(x)  # and so does torch

    try:
        traced(Around(body))
    finally:
        assert seen[:4] == [torch.Tensor, "Tensor", int, False]


def test_classes_of_values() -> None:
    assert class_of(3) is int
    assert class_of(torch.ones(1)) is torch.Tensor
    assert class_of(nn.Parameter(torch.ones(1))) is nn.Parameter
