"""Views, permutations and the like regroup axes; sizes baked into them are replaced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, annotated, assert_same_outputs, layout


def shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2)
    weights = tokens.mean(1, keepdim=True).softmax(-1)
    return (tokens * weights).sum(-1)


BODIES: dict[str, Any] = {
    "mirrored": lambda m, x: x + x.fliplr() - torch.flipud(x),
    "rotated": lambda m, x: x.rot90(1, (2, 3)) + torch.rot90(x, 2, [2, 3]),
    "roll": lambda m, x: (x + x.roll(1, 1) - torch.roll(x, (1, 2), (0, -3))).mean((2, 3)),
    "channel shuffle": lambda m, x: shuffle(x),
    "channels last and back": lambda m, x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
    "permute negative": lambda m, x: x.permute(0, -2, -1, 1),
    "tokens and back": lambda m, x: x.flatten(2).transpose(1, 2).mean(1),
    "flatten, view back": lambda m, x: x.flatten(2).view(x.shape),
    "squeeze": lambda m, x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1),
    "squeeze all": lambda m, x: x.mean((2, 3), keepdim=True).squeeze(),
    "unsqueeze": lambda m, x: x.unsqueeze(1).unsqueeze(-1).mean((1, 5)),
    "unsqueeze negative": lambda m, x: x.mean((2, 3)).unsqueeze(-1).unsqueeze(-1) * x,
    "expand_as": lambda m, x: x.mean((2, 3), keepdim=True).expand_as(x) - x,
    "movedim": lambda m, x: torch.movedim(x, 1, -1).mean(-1),
    "moveaxis, several": lambda m, x: x.moveaxis((2, 3), (-3, 0)),
    "swapaxes": lambda m, x: x.swapaxes(-1, -2),
    "pooled attention": lambda m, x: attention(x),
    "reshape by shape": lambda m, x: x.reshape(x.shape[0], 4, -1).mean(-1),
}


@pytest.mark.parametrize("name", BODIES)
def test_regrouping(name: str) -> None:
    small = fxscale.downscale(Around(BODIES[name]), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(BODIES[name]), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("large", "little"),
    [
        (lambda m, x: x.view(-1, 4, 144), lambda m, x: x.view(-1, 4, 64)),
        (lambda m, x: x.reshape((-1, 4, 144)), lambda m, x: x.reshape(-1, 4, 64)),
        (
            lambda m, x: torch.reshape(x.flatten(2), (-1, 4, 12, 12)),
            lambda m, x: x,
        ),
        (lambda m, x: x.view(-1, 2, 2, 12, 12), lambda m, x: x.view(-1, 2, 2, 8, 8)),
    ],
)
def test_sizes_baked_into_views_are_replaced(large: Any, little: Any) -> None:
    small = fxscale.downscale(Around(large), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(little), torch.randn(2, 3, 8, 8))


REFUSED: dict[str, tuple[Any, str]] = {
    "rows across rows": (
        lambda m, x: x.view(x.shape[0], 4, 8, 18),
        r"cannot view \(2\) \(4\) \(~12\) \(~12\) as \(2, 4, 8, 18\)",
    ),
    "squeeze of one pixel": (
        lambda m, x: torch.nn.functional.max_pool2d(x, 11).squeeze(-1),
        "drops a feature map's axis because it has one pixel in the target",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_scale_is_refused(name: str) -> None:
    body, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        fxscale.downscale(Around(body), 8, target_size=12)


def test_axes() -> None:
    network = annotated(Around(lambda m, x: x.view(2, 2, 2, 12, -1).flatten(2, 3)))
    assert layout(network, "view") == "(2) (2) (2) (~12) (~12)"
    assert layout(network, "flatten") == "(2) (2) (2 ~12) (~12)"
