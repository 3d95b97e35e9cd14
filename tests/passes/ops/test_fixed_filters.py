"""Filters that are no parameter keep their kernel, however they are computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.fxscale.checks import assert_compiles
from tests.passes.networks import Around


class Filtered(Around):
    """A 3x3 convolution, then `body`; `blur` is a filter of one channel, `each` one for each."""

    blur: Tensor
    each: Tensor

    def __init__(self, body: Any) -> None:
        super().__init__(body)
        self.register_buffer("blur", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None])
        self.register_buffer("each", torch.randn(4, 1, 3, 3))


FILTERS: dict[str, Any] = {
    "buffer": lambda m, x: m.each,
    "repeated": lambda m, x: m.blur.repeat(4, 1, 1, 1),
    "expanded": lambda m, x: m.blur.expand(x.shape[1], -1, -1, -1),
    "normalised": lambda m, x: m.each / m.each.sum((2, 3), keepdim=True),
    "even": lambda m, x: (m.blur > 0).to(x.dtype).expand(4, 1, 3, 3) / 9,
    "cast": lambda m, x: m.each.to(x.dtype),
    "constant": lambda m, x: torch.ones(4, 1, 3, 3, device=x.device) / 9,
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_stays(name: str) -> None:
    weight = FILTERS[name]
    model = Filtered(lambda m, x: F.conv2d(x, weight(m, x), stride=2, padding=1, groups=4))
    small = assert_compiles(model, 12, 8)
    kernels = [(plan.kernel_size, plan.pretrain_kernel_size) for plan in small.plan.convs]
    assert kernels == [((3, 3), (2, 2)), ((3, 3), (3, 3))]


def test_a_filter_as_long_as_the_map_is_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, torch.ones(4, 1, x.shape[2], 1), groups=4)

    with pytest.raises(UnsupportedModelError):
        fxscale.downscale(Around(body), 8, target_size=12)


def test_a_filter_times_a_gain_is_learned() -> None:
    """Its taps are a buffer's, and belong to one kernel size: said, with a remedy that works."""
    gain = nn.Conv2d(1, 4, 1, bias=False)
    model = Filtered(lambda m, x: F.conv2d(x, m.each * m.gain.weight, groups=4, padding=1))
    model.gain = gain
    with pytest.raises(UnsupportedModelError, match="would become") as caught:
        fxscale.downscale(model, 8, target_size=12)
    assert "keep" in caught.value.remedy
    assert fxscale.downscale(model, 8, target_size=12, keep=["mul"])
