"""`nn.SyncBatchNorm`, converted before or after `downscale`: one process, where it is BatchNorm.

Its exchange between processes runs on GPUs alone and is torch's own.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxscale
from fxscale.training import SmallResNet

convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm


def network() -> nn.Module:
    torch.manual_seed(1)
    return SmallResNet(3, 5, widths=(16, 32), interface=6)


def downscale(model: nn.Module) -> fxscale.PretrainNetwork:
    small = fxscale.downscale(model, 17, target_size=24)
    assert isinstance(small, fxscale.PretrainNetwork)
    return small


def trained(small: nn.Module) -> torch.optim.Optimizer:
    """Two steps, by which running statistics and momentum are no longer the initial ones."""
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(small(torch.randn(6, 3, 17, 17)), torch.arange(6) % 5).backward()
        optimizer.step()
    return optimizer


def synchronised(module: nn.Module) -> bool:
    """It has BatchNorms, and all of them are synchronised."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return bool(norms) and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize("when", ["before", "after"])
def test_compiled_trained_and_mapped_back_as_plain_batchnorm(when: str) -> None:
    plain = downscale(network())
    small = downscale(convert(network()) if when == "before" else network())
    convert(small)  # in place; no change where there is nothing to convert
    assert synchronised(small)
    assert small.plan == plain.plan

    optimizers = trained(small), trained(plain)
    for key, value in plain.state_dict().items():
        assert torch.equal(small.state_dict()[key], value), key

    targets = convert(network()), network()
    batches = [torch.randn(4, 3, 24, 24) for _ in range(3)]
    reports = [
        fxscale.transition(pretrain, target, optimizer=optimizer, batches=batches)
        for pretrain, target, optimizer in zip((small, plain), targets, optimizers, strict=True)
    ]
    assert synchronised(targets[0])
    for key, value in targets[1].state_dict().items():
        assert torch.equal(targets[0].state_dict()[key], value), key
    states = [report.optimizer.state_dict()["state"] for report in reports if report.optimizer]
    for number, entry in states[1].items():
        assert torch.equal(states[0][number]["momentum_buffer"], entry["momentum_buffer"])
    assert reports[0].batchnorm_batches == 3
    # Into a target without: the state is the same.
    network().load_state_dict(fxscale.upscale_state(small))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_stay_synchronised(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    small = convert(downscale(network())).eval()
    again = duplicate(small)
    images = torch.randn(2, 3, 17, 17)
    assert synchronised(again)
    assert torch.equal(again(images), small(images))
