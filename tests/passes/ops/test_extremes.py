"""`max` and `min` in their three forms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, assert_same_outputs

FORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "over channels": lambda m, x: torch.max(x, 1)[0],
    "over channels, kept": lambda m, x: x.max(dim=1, keepdim=True).values,
    "indices of channels": lambda m, x: x.min(1)[1] * x[:, 0],
    "over a spatial axis": lambda m, x: torch.min(x, dim=3)[0],
    "over all pixels": lambda m, x: x.flatten(2).max(2)[0],
    "of everything": lambda m, x: x / torch.max(x),
    "of two tensors": lambda m, x: torch.max(x, 0.5 * x.flip(2)),
    "by name": lambda m, x: torch.min(x, other=x.mean(1, keepdim=True)),
}


def unpacked(m: Any, x: Tensor) -> Tensor:
    values, _ = torch.max(x, dim=2)
    return values


@pytest.mark.parametrize("form", [*FORMS.values(), unpacked], ids=[*FORMS, "unpacked"])
def test_an_extreme_is_what_it_is_alone(form: Callable[[Any, Tensor], Any]) -> None:
    small = fxscale.downscale(Around(form), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(copy.deepcopy(form)), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "form",
    [
        lambda m, x: torch.max(x, 2)[1],
        lambda m, x: x * torch.max(x, 2, keepdim=True)[1],
        lambda m, x: torch.max(x, 3),
        lambda m, x: x * x.flatten(2).max(2)[1][:, :, None, None],
    ],
)
def test_indices_into_a_map_are_refused(form: Callable[[Any, Tensor], Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="returns indices into the feature map"):
        fxscale.downscale(Around(form), 8, target_size=12)
