"""Networks whose train mode and eval mode part early: each layer behind has a call per mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxscale


class OnePathPerMode(nn.Module):
    """All that follows the branch is computed on its own in each mode."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.relu() if self.training else x.tanh()
        return self.head(x)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4 * 16 * 16, 2)),
        nn.Sequential(nn.Conv2d(4, 2, 16), nn.Flatten()),
    ],
    ids=["interface", "kernel as large as the map"],
)
def test_layers_behind_a_branch_on_the_mode(head: nn.Module) -> None:
    model = OnePathPerMode(head)
    small = fxscale.downscale(model, 24, target_size=32)
    images = torch.randn(2, 3, 24, 24)
    twin = OnePathPerMode(small.head)
    twin.stem = small.stem
    for mode in (True, False):
        torch.testing.assert_close(small.train(mode)(images), twin.train(mode)(images))
    assert [len(conv.calls) for conv in small.plan.convs] == [1, 1]
    model.load_state_dict(fxscale.upscale_state(small))
