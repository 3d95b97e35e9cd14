"""Writes into tensors that `forward` made: right in every call and at every size, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError

SMALL, LARGE = 6, 12


class Writing(nn.Module):
    """A 1x1 convolution, whose map does not mix pixels, and `body` over it."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.register_buffer("calls", torch.zeros(1))
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, self.conv(x))


def of_sizes(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return torch.zeros(n, c, h, w)


def into_zeros_like(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :4] = x[:, 4:]
    return y.sum((2, 3))


def into_new_zeros(m: Any, x: Tensor) -> Tensor:
    y = x.new_zeros(x.shape)
    y.add_(x)
    return y.sum((2, 3))


def into_new_zeros_of_single_sizes(m: Any, x: Tensor) -> Tensor:
    y = x.new_zeros((x.shape[0], 3, x.shape[2], x.shape[3]))
    y[:] = x[:, :3]
    return y.sum((2, 3))


def into_new_full(m: Any, x: Tensor) -> Tensor:
    y = x.new_full((x.size(0), 8, x.size(2) * x.size(3)), 0.5)
    y += x.flatten(2)
    return y.sum(2)


def only_the_result_is_read(m: Any, x: Tensor) -> Tensor:
    y = of_sizes(x)
    y += x
    return y.sum((2, 3))


def a_constant_filled_at_once(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros(8, 1, 1)
    y.fill_(2.0)
    return (x * y).sum((2, 3))


def a_buffer_that_counts(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return (x * m.calls).sum((2, 3))


RIGHT = [
    into_zeros_like,
    into_new_zeros,
    into_new_zeros_of_single_sizes,
    into_new_full,
    only_the_result_is_read,
    a_constant_filled_at_once,
    a_buffer_that_counts,
]


@pytest.mark.parametrize("body", RIGHT)
def test_writes_come_out_right_in_every_call(body: Any) -> None:
    """The oracle is that of `test_shares.py`: every pixel stands twice in a row."""
    model = Writing(body)
    small = fxscale.downscale(model, SMALL, target_size=LARGE)
    model.load_state_dict(fxscale.upscale_state(small))
    for _ in range(3):
        images = torch.randn(2, 3, SMALL, SMALL)
        doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(small(images), model(doubled))


def by_method(m: Any, x: Tensor) -> Tensor:
    y = of_sizes(x)
    y.add_(x)
    return y.sum((2, 3))


def by_index(m: Any, x: Tensor) -> Tensor:
    y = of_sizes(x)
    y[:, :4] = x[:, :4]
    return y


def into_a_view(m: Any, x: Tensor) -> Tensor:
    y = of_sizes(x)
    y.flatten(2)[:, 1:].mul_(x.flatten(2)[:, 1:])
    return y.sum((2, 3))


def into_a_slice(m: Any, x: Tensor) -> Tensor:
    y = of_sizes(x)
    part = y[:, :4]
    part += x[:, :4]
    return y.sum((2, 3))


def masked(m: Any, x: Tensor) -> Tensor:
    y = of_sizes(x)
    y.masked_fill_(x > 0, 1.0)
    return y.mean((2, 3))


@pytest.mark.parametrize("body", [by_method, by_index, into_a_view, into_a_slice, masked])
def test_a_map_written_into_a_tensor_without_axes_is_refused(body: Any) -> None:
    reason = "writes a feature map into a tensor that was made from sizes"
    with pytest.raises(UnsupportedModelError, match=reason):
        fxscale.downscale(Writing(body), SMALL, target_size=LARGE)


def summed_up(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros(8)
    for sample in x.mean((2, 3)):
        total += sample
    return total


def added(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros(8)
    total.add_(x.mean((0, 2, 3)))
    return total


def chosen(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros(2, 8)
    total[:, :4] = x.mean((2, 3))[:, :4]
    return total


def through_a_view(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros(2, 4)
    total.view(8).add_(x.mean((0, 2, 3)))
    return total


def counted(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros(1)
    total += x.shape[0]
    return x * total


@pytest.mark.parametrize("body", [summed_up, added, chosen, through_a_view, counted])
def test_a_constant_that_the_next_call_would_find_changed_is_refused(body: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="changes a constant of the code"):
        fxscale.downscale(Writing(body), SMALL, target_size=LARGE)


def test_a_constant_that_changes_between_two_uses_is_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        offset = torch.zeros(8)
        x = x.mean((2, 3)) + offset
        offset.fill_(1.0)
        return x + offset

    with pytest.raises(UnsupportedModelError, match=r"changes .* after it was used"):
        fxscale.downscale(Writing(body), SMALL, target_size=LARGE)
