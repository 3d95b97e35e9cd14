"""The module tree that is traced shares the memory of the model's tensors, not the tensors."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from fxscale.passes.skeleton import share_tensors


def test_memory_is_shared_and_nothing_else() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].bias.requires_grad = False
    model[0].weight.decayed = True
    twin = share_tensors(model)
    pairs = zip(
        chain(twin.parameters(), twin.buffers()),
        chain(model.parameters(), model.buffers()),
        strict=True,
    )
    for one, other in pairs:
        assert one is not other
        assert one.data_ptr() == other.data_ptr()
        assert (type(one), one.requires_grad) == (type(other), other.requires_grad)
    assert twin[0].weight.decayed
    twin[0].weight.data = torch.zeros(4, 3, 3, 3)
    twin[1].weight.requires_grad_(False)
    assert model[0].weight.abs().sum() > 0
    assert model[1].weight.requires_grad


def test_tied_parameters_stay_tied() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    twin = share_tensors(nn.Sequential(first, second))
    assert twin[0].weight is twin[1].weight
