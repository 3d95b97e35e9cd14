"""Small networks that are refused for what they do with pixels, and the same after the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from tests.passes.test_distances import Attention, by_pads
from tests.refusal_cases import Build, Case, body

IMAGE = (12, 12)


def into_channels(m: Any, x: Tensor) -> Any:
    """Blocks of 4 x 4 pixels become channels, so that there are 4 whatever the input size."""
    x = x.view(-1, 4, 3, 4, 3, 4).permute(0, 1, 3, 5, 2, 4)
    return m.next(x.reshape(-1, 64, 3, 3))


def doubled_rows(m: Any, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 2:4] = x[:, :, 2:4] * 2
    return x


def changed_in_place(x: Tensor) -> Tensor:
    places = torch.arange(x.shape[2])
    places.clamp_(min=3)
    return places


def changed(x: Tensor) -> Tensor:
    return torch.arange(x.shape[2]).clamp(min=3)


def over_pixels(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.broadcast_to(x.mean((2, 3), keepdim=True), shape)


def deformed(m: Any, x: Tensor, offset: Tensor) -> Tensor:
    return deform_conv2d(x, offset, m.next.weight, padding=1)


def between_pixels(x: Tensor) -> Tensor:
    """One number for each pair of pixels."""
    pixels = x.mean(1).flatten(1)
    return pixels[:, :, None] @ pixels[:, None]


def attention(x: Tensor, mask: Tensor) -> Tensor:
    tokens = x.flatten(2).mT
    return F.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=mask)


def two_scales(x: Tensor) -> Tensor:
    return torch.cat((x.flatten(2), F.max_pool2d(x, 2).flatten(2)), 2)


class Unused(nn.Module):
    """Has a convolution and does not call it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def relative(logits: Callable[[Any, Tensor], Tensor]) -> Build:
    """Attention within rows; `logits` makes those of relative positions of the queries."""

    def attend(m: Any, x: Tensor) -> Tensor:
        queries = x.permute(0, 2, 3, 1)
        weights = (logits(m, queries) + queries @ queries.mT).softmax(-1)
        return (weights @ queries).permute(0, 3, 1, 2)

    return lambda: Attention(attend)


def smoothed(entries: Tensor) -> Tensor:
    return entries + F.avg_pool1d(entries.flatten(1, 2), 3, 1, 1).view_as(entries)


PIXELS: dict[str, Case] = {
    "… reads relative positions, but not the distances between the pixels of two feature maps out "
    "of a table": Case(
        relative(lambda m, queries: by_pads(F.linear(queries, m.across))),
        relative(lambda m, queries: by_pads(queries @ m.across.mT)),
    ),
    "turns distances round": Case(
        relative(lambda m, queries: by_pads((queries @ m.across.mT).flip(-1))),
        relative(lambda m, queries: by_pads(queries @ m.across.flip(0).mT)),
    ),
    "… runs over the distances of a table of relative positions": Case(
        relative(lambda m, queries: by_pads(smoothed(queries @ m.across.mT))),
        relative(lambda m, queries: by_pads(queries @ m.across.mT)),
    ),
    "runs over a dimension that is not one spatial axis": Case(
        body(
            lambda m, x: deformed(m, x.flatten(2)[:, :, None], m.off(x).flatten(2)[:, :, None]),
            off=nn.Conv2d(4, 18, 3, padding=1),
            next=nn.Conv2d(4, 4, 3),
        ),
        body(
            lambda m, x: deformed(m, x, m.off(x)),
            off=nn.Conv2d(4, 18, 3, padding=1),
            next=nn.Conv2d(4, 4, 3),
        ),
    ),
    "its sizes are one computed value": Case(
        body(lambda m, x: x + over_pixels(x, x.shape[:2] + IMAGE)),
        body(lambda m, x: x + over_pixels(x, (-1, -1, 12, 12))),
    ),
    "looks up a table at places that … changes in place": Case(
        body(lambda m, x: m.table(changed_in_place(x)).mT + x, table=nn.Embedding(12, 12)),
        body(lambda m, x: m.table(changed(x)).mT + x, table=nn.Embedding(12, 12)),
    ),
    "a map of … pixels is viewed as …; in the pre-train network it has … pixels, which do not "
    "divide…": Case(
        body(into_channels, next=nn.Conv2d(64, 4, 1)),
        options={"input_size": 10},
        remedy={"input_size": 8},
    ),
    "a factor counts samples and pixels in one number": Case(
        body(lambda m, x: x.sum((2, 3)) / (x.shape[0] * x.shape[2] * x.shape[3])),
        body(lambda m, x: x.sum((2, 3)) / x.shape[0] / (x.shape[2] * x.shape[3])),
    ),
    "grows with the pixels of a feature map as no factor does": Case(
        body(lambda m, x: x.logsumexp((2, 3))), body(lambda m, x: x.mean((2, 3)).logsumexp(1))
    ),
    "picks pixels of a feature map by computed indices": Case(
        body(lambda m, x: x.gather(2, x.long().clamp(0, 7))),
        body(lambda m, x: x.gather(1, x.long().clamp(0, 3))),
    ),
    "puts the pixels of a feature map in order, whose number changes": Case(
        body(lambda m, x: x.flatten(2).topk(3)[0]), body(lambda m, x: x.amax((2, 3)))
    ),
    "halves a feature map along a spatial axis": Case(
        body(lambda m, x: F.glu(x, 2)), body(lambda m, x: F.glu(x, 1))
    ),
    "takes pixels by their numbers": Case(
        body(lambda m, x: x.narrow(2, 1, 10)), body(lambda m, x: x[:, :, 1:-1])
    ),
    "shuffles a flattened feature map": Case(
        body(lambda m, x: F.channel_shuffle(x.flatten(1)[..., None, None], 2)),
        body(lambda m, x: F.channel_shuffle(x, 2).flatten(1)),
    ),
    "writes into a part of a feature map": Case(
        body(doubled_rows), body(lambda m, x: x + F.pad(x[:, :, 2:4], (0, 0, 2, 8)))
    ),
    "its mask is made of other axes than queries and keys": Case(
        body(lambda m, x: attention(x, between_pixels(F.max_pool2d(x, 3, 1, 1)))),
        body(lambda m, x: attention(x, between_pixels(x))),
    ),
    "takes every second token": Case(
        body(lambda m, x: two_scales(x)[:, :, ::2]), body(lambda m, x: two_scales(x[:, :, ::2]))
    ),
    "a convolution covers whole maps of different lengths: …": Case(
        body(
            lambda m, x: (m.next(x), m.next(F.pad(F.max_pool2d(x, 2), (3, 3, 3, 3)))),
            next=nn.Conv2d(4, 4, 12),
        ),
        body(
            lambda m, x: (m.next(x), m.last(F.pad(F.max_pool2d(x, 2), (3, 3, 3, 3)))),
            next=nn.Conv2d(4, 4, 12),
            last=nn.Conv2d(4, 4, 12),
        ),
    ),
    "… failed at the target size: …": Case(
        body(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(4 * 10 * 10, 2)),
        remedy={"target_size": 10},
    ),
    "… cannot be traced: …: …": Case(body(lambda m, x: x[m.missing]), body(lambda m, x: x)),
    "no convolution is reached from the model's inputs": Case(
        lambda: Unused(nn.Conv2d(3, 4, 3)), lambda: nn.Sequential(nn.Conv2d(3, 4, 3))
    ),
}
