"""Sizes that forward reads stay symbolic: the pre-train network computes its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, assert_same_outputs

BODIES: dict[str, Any] = {
    "shape": lambda m, x: x.reshape(x.shape[0], x.shape[1], x.shape[2] * x.shape[3]),
    "size()": lambda m, x: x.reshape(x.size()[0], -1),
    "size(dim)": lambda m, x: x.view(x.size(0), x.size(1), -1),
    "numel": lambda m, x: x.view(x.shape[0], x.numel() // x.shape[0]),
    "ndim": lambda m, x: x if x.ndim == 4 else x[None],
    "dim()": lambda m, x: x if x.dim() == 4 else x[None],
    "dtype": lambda m, x: x.to(x.dtype).type(x.dtype),
    "device": lambda m, x: x.to(x.device),
    "slice of the shape": lambda m, x: x.flatten(2).view(*x.shape[:2], -1),
    "new_tensor": lambda m, x: x * x.new_tensor([[[2.0]], [[3.0]], [[4.0]], [[5.0]]]),
    "new_zeros without maps": lambda m, x: x.mean((2, 3)) + x.new_zeros(x.shape[0], 4),
}


@pytest.mark.parametrize("name", BODIES)
def test_sizes_are_computed_anew(name: str) -> None:
    small = fxscale.downscale(Around(BODIES[name]), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(BODIES[name]), torch.randn(2, 3, 8, 8))


def test_activations_scaled_by_a_size_keep_their_amplitude() -> None:
    body: Any = lambda m, x: x / x.shape[-1] * (x.shape[2] ** 0.5)
    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={})
    by_hand = Around(lambda m, x: x / 12 * 12**0.5)
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "new",
    [
        lambda x: x.new_zeros(x.shape),
        lambda x: x.new_ones(x.shape[0], 4, *x.shape[2:]),
        lambda x: x.new_full((4, *x.shape[2:]), 2.0),
        lambda x: x.new_zeros((x.size(2), x.size(3))),
    ],
)
def test_a_new_tensor_with_the_lengths_of_a_map_has_its_axes(new: Any) -> None:
    model = Around(lambda m, x: x + new(x))
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, model, torch.randn(2, 3, 8, 8))


def test_a_new_tensor_of_a_computed_size_is_refused() -> None:
    model = Around(lambda m, x: x.new_zeros(2, x.shape[2] // 2))
    with pytest.raises(UnsupportedModelError, match="a size that is computed from a map's"):
        fxscale.downscale(model, 8, target_size=12)


@pytest.mark.parametrize("limit", [5, 10])
def test_the_branch_of_the_target_is_taken(limit: int) -> None:
    body: Any = lambda m, x: torch.relu(x) if x.shape[-1] > limit else x
    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    by_hand = Around(lambda m, x: torch.relu(x))
    assert_same_outputs(small, by_hand, torch.randn(2, 3, 8, 8))


ASSERTIONS: dict[str, Any] = {
    "a length": lambda x: torch._assert(x.shape[2] == 12, "not 12"),
    "a length, the other way": lambda x: torch._assert(12 == x.size(3), "not 12"),  # noqa: SIM300  as models write it
    "lengths": lambda x: torch._assert(x.shape[2:] == (12, 12), "not 12"),
    "a multiple": lambda x: torch._assert(x.shape[2] % 6 == 0, "no multiple of 6"),
    "an area": lambda x: torch._assert(x.shape[2] * x.shape[3] == 144, "not 144"),
    "a limit": lambda x: torch._assert(x.shape[2] >= 9, "too small"),
    "a square": lambda x: torch._assert(x.shape[2] == x.shape[3], "no square"),
    "channels": lambda x: torch._assert(x.shape[1] == 4, "not 4 channels"),
}


@pytest.mark.parametrize("name", ASSERTIONS)
def test_assertions_over_sizes(name: str) -> None:
    def body(m: Around, x: torch.Tensor) -> torch.Tensor:
        ASSERTIONS[name](x)
        return x.relu()

    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={})
    assert_same_outputs(small, Around(lambda m, x: x.relu()), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("name", ["a length", "a length, the other way", "a square"])
def test_assertions_hold_at_the_new_size_only(name: str) -> None:
    def body(m: Around, x: torch.Tensor) -> torch.Tensor:
        ASSERTIONS[name](x)
        return x.relu()

    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={})
    with pytest.raises(AssertionError):
        small(torch.randn(2, 3, 9, 10))


def test_an_assertion_that_fails_at_the_target_size() -> None:
    def body(m: Around, x: torch.Tensor) -> torch.Tensor:
        torch._assert(x.shape[2] == 13, "expected 13 pixels")
        return x

    with pytest.raises(UnsupportedModelError, match="expected 13 pixels"):
        fxscale.downscale(Around(body), 8, target_size=12)


def test_a_transposed_matrix() -> None:
    body: Any = lambda m, x: x.mT
    small = fxscale.downscale(Around(body), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body), torch.randn(2, 3, 8, 8))


def test_the_size_of_a_pool_is_read() -> None:
    class Global(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return nn.functional.avg_pool2d(x, kernel_size=x.size()[2:]).flatten(1)

    small = fxscale.downscale(Global(), 8, target_size=12)
    assert_same_outputs(small, Global(), torch.randn(2, 3, 8, 8))
