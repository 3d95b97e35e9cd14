"""`nn.MultiheadAttention` and transformer layers over the pixels of a map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from tests.fxscale.checks import assert_compiles
from tests.passes.networks import Around, assert_same_outputs


def own(m: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    mixed, _ = m.attend(tokens, tokens, tokens, need_weights=False)
    return mixed.mean(1)


def reduced(m: Any, x: Tensor) -> Tensor:
    """Keys and values from a smaller map, the pixels first, and the weights used, too."""
    tokens = x.flatten(2).permute(2, 0, 1)
    fewer = F.max_pool2d(x, 2).flatten(2).permute(2, 0, 1)
    mixed, weights = m.first(tokens, fewer, fewer)
    return torch.cat([mixed.mean(0), weights.amax((1, 2)).unsqueeze(1)], 1)


def encoded(m: Any, x: Tensor) -> Tensor:
    """A class token and the pixels."""
    pixels = x.flatten(2).mT
    tokens = torch.cat([pixels.mean(1, keepdim=True), pixels], 1)
    out: Tensor = m.encoder(tokens)[:, 0]
    return out


def decoded(m: Any, x: Tensor) -> Tensor:
    """Two queries of the batch's, which read the pixels; the pixels come first, as by default."""
    pixels = m.layer(x.flatten(2).permute(2, 0, 1))
    queries = torch.stack([pixels.mean(0), pixels.amax(0)])
    out: Tensor = m.decoder(queries, pixels).flatten(1)
    return out


BODIES = {"own": own, "reduced": reduced, "encoded": encoded, "decoded": decoded}


def around(body: Any) -> Around:
    return Around(
        body,
        attend=nn.MultiheadAttention(4, 2, batch_first=True),
        first=nn.MultiheadAttention(4, 2),
        layer=nn.TransformerEncoderLayer(4, 2, 8, 0.0),
        encoder=nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True, norm_first=True),
            num_layers=2,
            enable_nested_tensor=False,
        ),
        decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, 0.0), num_layers=2),
    )


@pytest.mark.parametrize("name", BODIES)
def test_attention_over_pixels(name: str) -> None:
    small = fxscale.downscale(around(BODIES[name]), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, around(BODIES[name]), torch.randn(2, 3, 8, 8))
    same = fxscale.downscale(around(BODIES[name]), 12, target_size=12, kernels={})
    assert_same_outputs(same, around(BODIES[name]), torch.randn(2, 3, 12, 12))


@pytest.mark.parametrize("name", ["encoded", "decoded"])
def test_networks_with_transformers(name: str) -> None:
    assert_compiles(around(BODIES[name]), 12, 8)


class Centred(nn.TransformerEncoderLayer):
    """A layer that knows how many tokens there are."""

    def forward(self, src: Tensor, *_: Any, **__: Any) -> Tensor:
        return src - src.sum(1, keepdim=True) / 144


def test_layers_that_are_not_of_torch_are_refused() -> None:
    model = Around(
        lambda m, x: m.encoder(x.flatten(2).mT),
        encoder=nn.TransformerEncoder(Centred(4, 2, 8, batch_first=True), 2),
    )
    with pytest.raises(UnsupportedModelError, match="layers that are not torch's"):
        fxscale.downscale(model, 8, target_size=12)


def test_a_mask_over_pixels_is_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed: Tensor = m.attend(tokens, tokens, tokens, attn_mask=torch.ones(144, 144))[0]
        return mixed

    with pytest.raises(UnsupportedModelError, match="a mask over pixels belongs to one size"):
        fxscale.downscale(around(body), 8, target_size=12)
