"""What `forward` assigns to state and attributes: in the graph, dropped or refused, never lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError


class Writing(nn.Module):
    """A convolution, and `write(self, features)` before its result is used."""

    def __init__(self, write: Callable[[Any, Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("mean", torch.ones(4))
        self.register_buffer("cache", torch.ones(4), persistent=False)
        self.scale = nn.Parameter(torch.full((), 2.0))
        self.plain = torch.ones(4)
        self.bank = [torch.ones(4)]
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.write(self, x)
        return x * self.mean.view(1, -1, 1, 1) * self.scale


def pooled(x: Tensor) -> Tensor:
    return x.detach().mean((0, 2, 3))


def in_place(m: Any, x: Tensor) -> None:
    m.mean.mul_(0.9).add_(pooled(x), alpha=0.1)


def copied(m: Any, x: Tensor) -> None:
    with torch.no_grad():
        m.mean.copy_(0.9 * m.mean + 0.1 * pooled(x))


def multiplied(m: Any, x: Tensor) -> None:
    m.mean *= 0.9


def clamped(m: Any, x: Tensor) -> None:
    m.scale.data.clamp_(0, 1.5)


def clamped_without_gradients(m: Any, x: Tensor) -> None:
    with torch.no_grad():
        m.scale.clamp_(max=1.5)


def parameter_multiplied(m: Any, x: Tensor) -> None:
    with torch.no_grad():
        m.scale *= 0.5


def data_multiplied(m: Any, x: Tensor) -> None:
    m.scale.data *= 0.5


HELD = (
    in_place,
    copied,
    multiplied,
    clamped,
    clamped_without_gradients,
    parameter_multiplied,
    data_multiplied,
)


@pytest.mark.parametrize("write", HELD, ids=lambda write: write.__name__)
def test_what_is_written_in_place_is_in_the_graph(write: Callable[..., Any]) -> None:
    target = Writing(write)
    before = copy.deepcopy(target.state_dict())
    same = fxscale.downscale(target, 12, target_size=12, kernels={})
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key]), key
    for _ in range(3):
        image = torch.randn(2, 3, 12, 12)
        assert torch.equal(same(image), target(image))
    for key, value in target.state_dict().items():
        assert torch.equal(same.state_dict()[key], value), key


def buffer(m: Any, x: Tensor) -> None:
    m.mean = 0.9 * m.mean + 0.1 * pooled(x)


def written_elsewhere(m: Any, x: Tensor) -> None:
    m.mean = pooled(x).mul_(0.1)


def read_cache(m: Any, x: Tensor) -> None:
    m.cache = m.cache + pooled(x)


def plain_tensor(m: Any, x: Tensor) -> None:
    """As BatchNorm is written in courses."""
    m.plain = 0.9 * m.plain + 0.1 * pooled(x)


def list_item(m: Any, x: Tensor) -> None:
    m.bank[0] = 0.9 * m.bank[0] + 0.1 * pooled(x)


def written_in_one_mode(m: Any, x: Tensor) -> None:
    if m.training:
        m.plain = pooled(x)
    else:
        x.mul_(m.plain.view(1, -1, 1, 1))


def data(m: Any, x: Tensor) -> None:
    m.scale.data = m.scale.data.clamp(0, 1)


def data_of_a_buffer(m: Any, x: Tensor) -> None:
    m.mean.data = 0.9 * m.mean.data


def normalised(m: Any, x: Tensor) -> None:
    m.conv.weight.data = F.normalize(m.conv.weight.data)


def frozen(m: Any, x: Tensor) -> None:
    m.scale.requires_grad = False


LOST = (
    buffer,
    written_elsewhere,
    read_cache,
    plain_tensor,
    list_item,
    written_in_one_mode,
    data,
    data_of_a_buffer,
    normalised,
    frozen,
)


@pytest.mark.parametrize("write", LOST, ids=lambda write: write.__name__)
def test_what_a_graph_would_lose_is_refused(write: Callable[..., Any]) -> None:
    target = Writing(write)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(UnsupportedModelError, match=r"forward assigns to .*write in place"):
        fxscale.downscale(target, 8, target_size=12)
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert target.scale.requires_grad
    target(torch.randn(2, 3, 12, 12))


def kept_for_others(m: Any, x: Tensor) -> None:
    m.features = x
    m.plain = pooled(x)
    m.cache = pooled(x)
    m.bank[0] = x


def test_what_nobody_reads_is_dropped() -> None:
    target = Writing(kept_for_others)
    target(torch.randn(2, 3, 12, 12))  # the attributes hold tensors of this call
    same = fxscale.downscale(target, 12, target_size=12, kernels={})
    image = torch.randn(2, 3, 12, 12)
    assert torch.equal(same(image), target(image))


class Masked(nn.Conv2d):
    """As in PixelCNN: the kernel sees what lies above and to the left."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        mask = torch.ones_like(self.weight)
        mask[:, :, self.kernel_size[0] // 2, self.kernel_size[1] // 2 :] = 0
        mask[:, :, self.kernel_size[0] // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


@pytest.mark.parametrize("options", [{"target_size": 16}, {}], ids=["given", "inferred"])
def test_a_kernel_that_forward_masks_is_kept(options: dict[str, Any]) -> None:
    target = nn.Sequential(Masked(3, 4, 5, padding=2), nn.Conv2d(4, 4, 3, padding=1))
    weight = target.get_parameter("0.weight").detach().clone()
    with pytest.raises(
        UnsupportedModelError, match=r"forward writes into its weight.*keep=\['0'\]"
    ):
        fxscale.downscale(target, 12, **options)
    assert torch.equal(target.get_parameter("0.weight"), weight)
    small = fxscale.downscale(target, 12, keep=["0"], **options)
    assert small.get_parameter("1.weight").shape[2:] == (2, 2)
    small(torch.randn(2, 3, 12, 12))
    assert torch.equal(small.get_parameter("0.weight"), weight * target[0].mask)
    target.load_state_dict(fxscale.upscale_state(small))
