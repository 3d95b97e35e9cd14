"""Means and maxima do not depend on the number of pixels; sums and norms do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import Around, annotated, assert_same_outputs, layout

BODIES: dict[str, Any] = {
    "mean": lambda m, x: x.mean((2, 3)),
    "mean keepdim": lambda m, x: x.mean((2, 3), keepdim=True),
    "mean list": lambda m, x: x.mean([-2, -1]),
    "torch.mean": lambda m, x: torch.mean(x, dim=3).mean(2),
    "amax": lambda m, x: x.amax(dim=(2, 3)),
    "var": lambda m, x: x.var((2, 3), unbiased=False),
    "var_mean": lambda m, x: torch.add(*torch.var_mean(x, dim=(2, 3))),
    "cumsum over channels": lambda m, x: x.cumsum(1).mean((2, 3)),
    "norm over channels": lambda m, x: x.norm(dim=1).mean((1, 2)),
    "torch.std": lambda m, x: torch.std(x, dim=(2, 3), keepdim=True),
    "any and all": lambda m, x: (x > 0).any(3).float() + (x > -1).all(dim=2).float(),
    "prod over channels": lambda m, x: x.prod(1),
    "logsumexp over channels": lambda m, x: torch.logsumexp(x, 1, keepdim=True),
    "cosine over channels": lambda m, x: F.cosine_similarity(x[:, :2], x[:, 2:]),
    "cosine over pixels": lambda m, x: F.cosine_similarity(x[:, :2], x[:, 2:], dim=3),
    "sum over channels": lambda m, x: x.sum(1, keepdim=True),
    "flattened": lambda m, x: x.flatten(2).mean(-1),
    "everything": lambda m, x: x.mean(),
    "a mean by hand": lambda m, x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "a mean by hand, one axis each": lambda m, x: x.sum(3).div(x.size(3)).sum(2) / x.size(2),
    "a mean by hand, flattened": lambda m, x: x.flatten(2).sum(-1) * (1 / x[0, 0].numel()),
    "bilinear pooling": lambda m, x: (
        torch.bmm(x.flatten(2), x.flatten(2).mT) / (x.shape[2] * x.shape[3])
    ),
    "a share of the width": lambda m, x: x + torch.arange(x.shape[3], device=x.device) / x.shape[3],
}


@pytest.mark.parametrize("name", BODIES)
def test_reductions(name: str) -> None:
    small = fxscale.downscale(Around(BODIES[name]), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(BODIES[name]), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("large", "little"),
    [
        (lambda m, x: x.sum(), lambda m, x: x.sum() * (144 / 64)),
        (lambda m, x: torch.sum(x, (1, 3)), lambda m, x: x.sum((1, 3)) * 1.5),
        (lambda m, x: x.norm(dim=3), lambda m, x: x.norm(dim=3) * 1.5**0.5),
        (
            lambda m, x: torch.linalg.vector_norm(x, 1, (2, 3)),
            lambda m, x: x.abs().sum((2, 3)) * (144 / 64),
        ),
    ],
)
def test_what_grows_with_the_map_keeps_its_amplitude(large: Any, little: Any) -> None:
    small = fxscale.downscale(Around(large), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(little), torch.randn(2, 3, 8, 8))


def test_an_accumulation_over_pixels_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="accumulates over the pixels"):
        fxscale.downscale(Around(lambda m, x: x.cumsum(-1)), 8, target_size=12)


def test_axes_behind_a_reduction() -> None:
    network = annotated(Around(lambda m, x: x.mean(2).amax(1, keepdim=True)))
    assert layout(network, "mean") == "(2) (4) (~12)"
    assert layout(network, "amax") == "(2) () (~12)"


@pytest.mark.parametrize("body", [lambda m, x: x.prod(2), lambda m, x: x.logsumexp((2, 3))])
def test_what_no_factor_undoes_is_refused(body: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="as no factor does"):
        fxscale.downscale(Around(body), 8, target_size=12)


def test_a_histogram_counts_as_many_pixels_as_the_target_has() -> None:
    def model() -> Around:
        return Around(lambda m, x: torch.histc(x.sigmoid(), 4, 0, 1))

    small = fxscale.downscale(model(), 8, target_size=12, kernels={"conv": 3})
    by_hand, images = model(), torch.randn(2, 3, 8, 8)
    by_hand.load_state_dict(small.state_dict())
    torch.testing.assert_close(small(images), by_hand(images) * 144 / 64)
    assert small(images).sum() == 2 * 4 * 144
