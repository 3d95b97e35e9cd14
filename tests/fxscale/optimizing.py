"""Steps of two networks whose optimizers are compared, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.fxscale.hand_plans import SmallNet


def networks() -> tuple[SmallNet, SmallNet]:
    return SmallNet(8).double(), SmallNet(12).double()


def steps(net: nn.Module, optimizer: Optimizer, count: int = 3) -> None:
    """Training steps on random gradients."""
    for _ in range(count):
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def zero_gradient_step(net: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """By how much each parameter moves."""
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in net.named_parameters()}


def train(net: nn.Module, optimizer: Optimizer, gradients: dict[str, Tensor]) -> None:
    for name, parameter in net.named_parameters():
        parameter.grad = gradients[name].clone()
    optimizer.step()
