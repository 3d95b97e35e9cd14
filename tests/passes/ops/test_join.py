"""Sums, concatenations and stacks: maps that meet have one size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, annotated, assert_same_outputs, layout, map_sizes


class Branches(nn.Module):
    """Two branches of different depth that meet."""

    def __init__(self, join: Any, k: int = 3, paddings: tuple[int, ...] = (1, 1)) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, k, padding=paddings[0])
        self.b = nn.Conv2d(3, 3, k, padding=paddings[1])
        self.short = nn.Conv2d(3, 3, 1)
        self.join = join

    def forward(self, x: Tensor) -> Any:
        return self.join(self.b(self.a(x).relu()), self.short(x))


JOINS: dict[str, Any] = {
    "+": lambda a, b: a + b,
    "torch.add": torch.add,
    ".mul": lambda a, b: a.mul(b),
    "in place": lambda a, b: a.add_(b),
    "+=": lambda a, b: _iadd(a, b),
    "/": lambda a, b: a / (b.exp() + 1),
    "maximum": torch.maximum,
    "hypot": torch.hypot,
    "logical": lambda a, b: torch.logical_and(a.gt(0), torch.lt(b, 0)).float(),
    "cat": lambda a, b: torch.cat([a, b], dim=1),
    "hstack": lambda a, b: torch.hstack([a, b]),
    "cat negative dim": lambda a, b: torch.cat((a, b), dim=-3),
    "stack": lambda a, b: torch.stack([a, b], dim=2).mean(2),
    "stack at the end": lambda a, b: torch.stack([a, b], dim=-1).mean(-1),
    "broadcast": lambda a, b: a * b.mean((2, 3), keepdim=True).sigmoid(),
    "scalar": lambda a, b: 2 * a - b / 3,
}


def _iadd(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


@pytest.mark.parametrize("name", JOINS)
def test_a_join_computes_what_it_does_alone(name: str) -> None:
    join = JOINS[name]
    small = fxscale.downscale(Branches(join), 8, target_size=12)
    image = torch.randn(2, 3, 8, 8)
    assert_same_outputs(small, Branches(join, 2, (0, 1)), image)
    assert map_sizes(small, image)["b"] == (8, 8)
    assert small.plan.pad_operators == ()


def test_three_branches_of_different_depth() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3, 2, 1)
            self.two = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1))
            self.pool = nn.MaxPool2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.one(x), self.two(x), self.pool(x)], 1)

    small = fxscale.downscale(Three(), 16, target_size=24)
    image = torch.randn(2, 3, 16, 16)
    assert small(image).shape == (2, 11, 8, 8)
    sizes = map_sizes(small, image)
    assert sizes["pool"] == (8, 8)


def test_a_parameter_over_the_map_is_resized_without_gain() -> None:
    class Embedded(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.embedding = nn.Parameter(torch.full((1, 4, size, size), 2.5))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x)
            return out + self.embedding

    small = fxscale.downscale(Embedded(12), 8, target_size=12)
    assert_same_outputs(small, Embedded(8), torch.randn(2, 3, 8, 8))
    large = fxscale.upscale_state(small)["embedding"]
    torch.testing.assert_close(large, torch.full((1, 4, 12, 12), 2.5))


def test_a_parameter_over_tokens_is_resized() -> None:
    class Tokens(nn.Module):
        def __init__(self, size: int, patch: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, patch, stride=2)
            self.embedding = nn.Parameter(torch.randn(1, size * size, 4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x)
            return out.flatten(2).transpose(1, 2) + self.embedding

    small = fxscale.downscale(Tokens(6, 2), 8, target_size=12)
    assert_same_outputs(small, Tokens(4, 2), torch.randn(2, 3, 8, 8))


REFUSED: dict[str, tuple[Any, str]] = {
    "a pool over two maps": (
        lambda m, x: F.max_pool2d(torch.cat([x, x], 3), 2),
        r"max_pool2d runs over maps that lie one behind the other, \[~12 \+ ~12\]",
    ),
    "different axes": (
        lambda m, x: x.flatten(1) + x.permute(0, 2, 3, 1).flatten(1),
        "different axes",
    ),
    "a map meets channels": (
        lambda m, x: x.mean((1, 2)) + m.fc(x.mean((2, 3))),
        "a spatial axis meets one that does not scale",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_joins_that_cannot_scale_are_refused(name: str) -> None:
    body, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        fxscale.downscale(Around(body, fc=nn.Linear(4, 12)), 8, target_size=12)


def test_axes_of_a_join() -> None:
    network = annotated(Around(lambda m, x: torch.cat([x, x.relu()], 1)))
    assert layout(network, "cat") == "(2) (8) (~12) (~12)"


def test_where_with_a_compared_map() -> None:
    body: Any = lambda m, x: torch.where(x > 0, x, 0.1 * x)
    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body), torch.randn(2, 3, 8, 8))


def test_a_map_of_one_pixel_meets_a_global_average() -> None:
    """The one pixel may become several; what has no axis is laid over all of them."""
    model = Around(
        lambda m, x: m.last(x) * m.last(x).mean((2, 3), True), last=nn.Conv2d(4, 4, 5, 8)
    )
    model.conv.stride = (2, 2)
    small = fxscale.downscale(model, 9, target_size=12)
    assert small(torch.randn(2, 3, 9, 9)).shape[:2] == (2, 4)
