"""Products that networks of images take: the compiled network against the model on small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxscale
from tests.passes.networks import assert_same_outputs


class Nearest(nn.Module):
    """Distances of the tokens of one map to those of another, batched."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 8, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (conv(x).flatten(2).mT for conv in self.convs)
        return torch.cdist(first, second).amin(2)


def test_distances_between_the_tokens_of_two_maps() -> None:
    small = fxscale.downscale(Nearest(), 8, target_size=12, keep=["*"])
    assert_same_outputs(small, Nearest(), torch.randn(3, 3, 8, 8))
