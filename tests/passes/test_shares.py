"""Sums over pixels keep their amplitude; so does what is normalised over pixels.

The oracle: where every pixel of the target's map stands twice in a row along both axes, a network
that keeps amplitudes computes the same from the small map as the target does from the large one.
"""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.passes.networks import assert_gradients_reach_every_parameter

SMALL, LARGE = 6, 12


class Pixels(nn.Module):
    """A 1x1 convolution, whose map does not mix pixels, and `body` over it."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self.conv(x))


def tokens(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `(N, H * W, 2)`."""
    q, k, v, _ = x.flatten(2).transpose(1, 2).chunk(4, -1)
    return q, k, v


def linear_attention(x: Tensor) -> Tensor:
    """As in EfficientViT: normalised by a sum that the same weights make."""
    q, k, v = tokens(F.relu(x))
    v = F.pad(v, (0, 1), value=1.0)
    out = q @ (k.transpose(-1, -2) @ v)
    return (out[..., :-1] / (out[..., -1:] + 0.1)).mean(1)


def linear_attention_by_sums(x: Tensor) -> Tensor:
    q, k, v = tokens(F.relu(x))
    context = torch.einsum("bnd,bne->bde", k, v)
    norm = torch.einsum("bnd,bd->bn", q, k.sum(1))
    return (torch.einsum("bnd,bde->bne", q, context) / (norm.unsqueeze(-1) + 0.1)).mean(1)


def response_normalisation(x: Tensor) -> Tensor:
    """As in ConvNeXt V2."""
    x = x.permute(0, 2, 3, 1)
    norm = x.norm(p=2, dim=(1, 2), keepdim=True)
    x = torch.addcmul(torch.ones(8), torch.ones(8), x * (norm / (norm.mean(-1, keepdim=True) + 1)))
    return (x * norm).mean((1, 2))


def bilinear_pooling(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / 10


def attention(x: Tensor) -> Tensor:
    q, k, v = tokens(x)
    return ((q @ k.mT).softmax(-1) @ v).mean(1)


def softmax_of_keys(x: Tensor) -> Tensor:
    """As in efficient attention and lambda layers: the softmax is one of the keys."""
    q, k, v = tokens(x)
    return (q @ (F.softmax(k, dim=1).transpose(1, 2) @ v)).mean(1)


def global_context(x: Tensor) -> Tensor:
    """As in GCNet: one weight per pixel, multiplied and summed."""
    weights = x[:, :1].flatten(2).softmax(-1)
    return (F.dropout(weights, 0.0) * x.flatten(2)).sum(-1)


def cross_covariance(x: Tensor) -> Tensor:
    """As in XCiT: two tensors of norm one over the pixels."""
    q, k, v = (t.transpose(1, 2) for t in tokens(x))
    weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1)
    return (weights @ v).mean(-1)


BODIES: dict[str, Any] = {
    "a sum": lambda x: x.sum((2, 3)),
    "sums one by one": lambda x: x.sum(3).sum(2),
    "a sum of everything": lambda x: x.sum(),
    "a pool that sums": lambda x: F.avg_pool2d(x, x.shape[2:], divisor_override=1).flatten(1),
    "a pool with a divisor of its own": lambda x: F.avg_pool2d(
        x, (LARGE, 2), divisor_override=7
    ).mean((2, 3)),
    "a sum over rows and channels": lambda x: torch.sum(x, (1, 2)).mean(1),
    "a sum of what was flattened": lambda x: x.flatten(2).sum(-1, keepdim=True),
    "a Euclidean norm": lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
    "a norm of order 1": lambda x: x.norm(1, dim=(2, 3)),
    "a norm of order 3": lambda x: torch.norm(x, 3, dim=2).mean(2),
    "the largest": lambda x: torch.linalg.vector_norm(x, float("inf"), (2, 3)),
    "normalised": lambda x: (F.normalize(x.flatten(2), dim=2) + 1).square().mean(2),
    "softmax as a gate": lambda x: (x * x.flatten(2).softmax(-1).view_as(x)).mean((2, 3)),
    "softmax that is added": lambda x: (x.flatten(2).softmax(-1) + x.flatten(2)).mean(-1),
    "softmax that is squared": lambda x: x.flatten(2).softmax(-1).square().mean(-1),
    "linear attention": linear_attention,
    "linear attention by einsum": linear_attention_by_sums,
    "response normalisation": response_normalisation,
    "bilinear pooling": bilinear_pooling,
    "attention": attention,
    "softmax of keys": softmax_of_keys,
    "global context": global_context,
    "cross covariance": cross_covariance,
    "einsum over pixels": lambda x: torch.einsum("nchw,ndhw->ncd", x, x),
    "einsum with an ellipsis": lambda x: torch.einsum("...hw,...hw->...", x, x),
    "einsum without an arrow": lambda x: torch.einsum("nchw,c", x, torch.ones(8)).mean((0, 2)),
    "einsum over channels": lambda x: torch.einsum("nchw,cd->ndhw", x, torch.eye(8)).mean((2, 3)),
}
BALANCED = ["the largest", "attention", "softmax of keys", "global context", "cross covariance"]
"""In which sums and shares cancel, or there are none."""


@pytest.mark.parametrize("name", BODIES)
def test_amplitudes_do_not_depend_on_the_number_of_pixels(name: str) -> None:
    model = Pixels(BODIES[name])
    small = fxscale.downscale(model, SMALL, target_size=LARGE)
    model.load_state_dict(fxscale.upscale_state(small))
    images = torch.randn(3, 3, SMALL, SMALL)
    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for mode in (True, False):
        expected = model.train(mode)(doubled)
        torch.testing.assert_close(small.train(mode)(images), expected, rtol=1e-4, atol=1e-5)
    assert_gradients_reach_every_parameter(small, images)


@pytest.mark.parametrize("name", BODIES)
def test_at_the_same_size_the_network_is_the_target(name: str) -> None:
    model = Pixels(BODIES[name])
    same = fxscale.downscale(model, LARGE, target_size=LARGE)
    images = torch.randn(2, 3, LARGE, LARGE)
    torch.testing.assert_close(same(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", BALANCED)
def test_no_operator_stands_where_factors_cancel(name: str) -> None:
    small = fxscale.downscale(Pixels(BODIES[name]), SMALL, target_size=LARGE)
    factors = [
        node.args[1]
        for node in small.graph.nodes
        if node.target is operator.mul and isinstance(node.args[1], float)
    ]
    assert factors == []


def test_counts_in_whole_numbers_are_refused() -> None:
    model = Pixels(lambda x: (x > 0).sum((2, 3)))
    with pytest.raises(UnsupportedModelError, match="counts pixels in whole numbers"):
        fxscale.downscale(model, SMALL, target_size=LARGE)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x: x.cumsum(2), "accumulates over the pixels of a feature map"),
        (lambda x: torch.einsum("nchh->nch", x), "the diagonal of a feature map"),
        (lambda x: x.norm(0, dim=2), "a norm of order 0"),
    ],
)
def test_what_has_no_meaning_at_another_size_is_refused(body: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        fxscale.downscale(Pixels(body), SMALL, target_size=LARGE)


def test_a_softmax_that_is_returned_still_sums_to_one() -> None:
    model = Pixels(lambda x: x.flatten(2).softmax(-1))
    small = fxscale.downscale(model, SMALL, target_size=LARGE)
    torch.testing.assert_close(
        small(torch.randn(2, 3, SMALL, SMALL)).sum(-1), torch.ones(2, 8), rtol=1e-5, atol=1e-5
    )
