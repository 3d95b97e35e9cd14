"""Max unpooling: values go back to the pixels that they came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, assert_same_outputs


class Encoder(nn.Module):
    """A SegNet: what is pooled on the way down is unpooled to the same pixels on the way up."""

    def __init__(self, *, functional: bool = False, sized: bool = True) -> None:
        super().__init__()
        self.functional, self.sized = functional, sized
        self.down = nn.ModuleList(nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.up = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        taken: list[tuple[Tensor, Any]] = []
        for conv in self.down:
            x = conv(x)
            size = x.size() if self.sized else None
            if self.functional:
                x, indices = F.max_pool2d(x, 2, return_indices=True)
            else:
                x, indices = self.pool(x)
            taken.append((indices, size))
        for conv in self.up:
            indices, size = taken.pop()
            if self.functional:
                x = F.max_unpool2d(x, indices, 2, output_size=size)
            else:
                x = self.unpool(x, indices, output_size=size)
            x = conv(x)
        return x


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(("size", "sized"), [(16, False), (16, True), (19, True), (21, True)])
def test_kept_kernels_compute_what_the_model_does(functional: bool, size: int, sized: bool) -> None:
    model = Encoder(functional=functional, sized=sized)
    small = fxscale.downscale(model, size, target_size=24, keep=["*"])
    # At an odd size the model has to be told what the compiler finds out.
    by_hand = Encoder(functional=functional)
    assert_same_outputs(small, by_hand, torch.randn(2, 3, size, size))


@pytest.mark.parametrize("size", [16, 17, 19])
def test_maxima_stand_where_they_were(size: int) -> None:
    def body(m: Any, x: Tensor) -> Any:
        values, indices = m.pool(x)
        return x, m.unpool(m.more(values), indices)

    model = Around(
        body,
        more=nn.Identity(),
        pool=nn.MaxPool2d(2, return_indices=True),
        unpool=nn.MaxUnpool2d(2),
    )
    small = fxscale.downscale(model, size, target_size=24)
    pooled, unpooled = small(torch.rand(2, 3, size, size))
    assert pooled.shape == unpooled.shape
    assert small.plan.convs[0].pretrain_kernel_size == (2, 2)
    for rows in range(0, size - 1, 2):
        for columns in range(0, size - 1, 2):
            window = (..., slice(rows, rows + 2), slice(columns, columns + 2))
            highest = pooled[window].amax((-2, -1), keepdim=True)
            torch.testing.assert_close(
                unpooled[window], torch.where(pooled[window] == highest, highest, 0.0)
            )


def test_a_segmentation_network_scales_and_trains() -> None:
    model = Encoder(sized=False)
    small = fxscale.downscale(model, 19, target_size=24)
    assert all(conv.pretrain_kernel_size == (2, 2) for conv in small.plan.convs)
    output = small(torch.randn(2, 3, 19, 19))
    assert output.shape == (2, 4, 19, 19)
    output.square().mean().backward()
    assert all(p.grad is not None for p in small.parameters())
    model.load_state_dict(fxscale.upscale_state(small))


def test_the_values_alone() -> None:
    def model() -> Around:
        return Around(lambda m, x: m.pool(x)[0], pool=nn.MaxPool2d(2, return_indices=True))

    small = fxscale.downscale(model(), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, model(), torch.randn(2, 3, 8, 8))


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "computed with": (
        lambda m, x: (lambda v, i: v + i)(*m.pool(x)),
        "returns indices into the feature map",
    ),
    "returned": (lambda m, x: m.pool(x), "returns indices into the feature map"),
    "of the whole map": (
        lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 12, return_indices=True), 12),
        "returns indices into the feature map",
    ),
    "of no pool": (
        lambda m, x: m.unpool(x, torch.zeros_like(x, dtype=torch.int64)),
        "its indices are those of no max pool",
    ),
    "another size": (
        lambda m, x: m.unpool(*m.pool(x), output_size=(13, 12)),
        "makes a map of another size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    body, reason = REFUSED[name]
    model = Around(body, pool=nn.MaxPool2d(2, return_indices=True), unpool=nn.MaxUnpool2d(2))
    with pytest.raises(UnsupportedModelError, match=reason):
        fxscale.downscale(model, 8, target_size=12)
