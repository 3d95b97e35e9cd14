"""Losses inside of a forward: the compiled network against the model on small images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "smooth_l1_loss": lambda a, b: F.smooth_l1_loss(a, b, beta=0.3),
    "huber_loss": F.huber_loss,
    "none": lambda a, b: F.mse_loss(a, b, reduction="none"),
    "MSELoss": nn.MSELoss(),
    "L1Loss": nn.L1Loss(reduction="none"),
    "CosineSimilarity": nn.CosineSimilarity(dim=1),
}


class TwoHeads(nn.Module):
    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 3, padding=1) for _ in range(2))
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        first, second = (conv(x) for conv in self.convs)
        return self.loss(first, second.detach())


def on_small_images(loss: Loss) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    target = TwoHeads(loss)
    pretrain = fxscale.downscale(target, 8, target_size=12, keep=["*"])
    pretrain.load_state_dict(target.state_dict())
    images = torch.randn(3, 3, 8, 8)
    return pretrain(images), target(images)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_does_not_depend_on_the_size(name: str) -> None:
    torch.testing.assert_close(*on_small_images(LOSSES[name]))


@pytest.mark.parametrize(
    "loss", [lambda a, b: F.mse_loss(a, b, reduction="sum"), nn.MSELoss(reduction="sum")]
)
def test_a_sum_over_pixels_keeps_the_targets_amplitude(loss: Loss) -> None:
    found, alone = on_small_images(loss)
    torch.testing.assert_close(found, alone * 12**2 / 8**2)


@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_old_arguments_are_refused() -> None:
    with pytest.raises(fxscale.UnsupportedModelError, match="mse_loss: unusual arguments"):
        on_small_images(lambda a, b: F.mse_loss(a, b, reduce=False))
