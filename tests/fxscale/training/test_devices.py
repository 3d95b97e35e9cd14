"""What a run sets for its device, and gives back."""

from __future__ import annotations

import pytest
import torch

from fxscale.training.devices import reproducible
from tests.fxscale.training.small_runs import settings


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_tries_its_kernels(deterministic: bool) -> None:
    before = torch.backends.cudnn.benchmark
    with reproducible(settings(deterministic=deterministic)):
        assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.backends.cudnn.benchmark is before
