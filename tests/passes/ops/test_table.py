"""Tables read at the pixels' own numbers: the compiled network against the model itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from tests.passes.networks import assert_same_outputs


class Quantised(nn.Module):
    """Every pixel becomes the nearest of a few vectors, as in VQ-VAE; gradients go straight on."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.read = read
        self.encode = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.codes = nn.Parameter(torch.randn(6, 8))
        self.decode = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.encode(x).permute(0, 2, 3, 1)
        flat = pixels.reshape(-1, 8)
        nearest = torch.cdist(flat, self.codes).argmin(1)
        quantised = self.read(self.codes, nearest).view(pixels.shape)
        straight = pixels + (quantised - pixels).detach()
        return self.decode(straight.permute(0, 3, 1, 2)), (pixels.detach() - quantised).square()


@pytest.mark.parametrize(
    "read",
    [
        lambda codes, nearest: codes[nearest],
        lambda codes, nearest: codes.index_select(0, nearest),
        lambda codes, nearest: codes.T[:, nearest].T,
        lambda codes, nearest: F.embedding(nearest, codes),
        lambda codes, nearest: F.one_hot(nearest, 6).float() @ codes,
    ],
    ids=["getitem", "index_select", "columns", "embedding", "one_hot"],
)
def test_a_codebook(read: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    target = Quantised(read)
    pretrain = fxscale.downscale(target, 24, target_size=32, keep=["*"])
    pretrain.load_state_dict(target.state_dict())
    images = torch.randn(3, 3, 24, 24)

    for found, expected in zip(pretrain(images), target(images), strict=True):
        torch.testing.assert_close(found, expected)
    found.mean().backward()
    assert pretrain.codes.grad.abs().sum() > 0


class Labelled(nn.Module):
    """Class numbers of pixels, embedded, next to the pixels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.table = nn.Embedding(5, 4)
        self.head = nn.Conv2d(9, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        embedded = self.table(x.argmax(1)).permute(0, 3, 1, 2)
        result: Tensor = self.head(torch.cat([x, embedded], 1))
        return result


def test_an_embedding_of_every_pixel() -> None:
    small = fxscale.downscale(Labelled(), 8, target_size=12, keep=["*"])
    assert_same_outputs(small, Labelled(), torch.randn(3, 3, 8, 8))
    small = fxscale.downscale(Labelled(), 8, target_size=12)
    Labelled().load_state_dict(fxscale.upscale_state(small))
