"""The networks of a run: the target and its pre-train networks, from name and seed alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn

from fxscale.compiler import downscale
from fxscale.models import registry
from fxscale.pretrain_network import PretrainNetwork
from fxscale.training.settings import Settings

ModelFactory = Callable[[int], nn.Module]
"""From the number of classes to a target network with fresh weights."""


def named_model(name: str) -> ModelFactory:
    """The model of that name, its classes as many as there are, where its factory takes them."""
    parameters = inspect.signature(registry.resolve(name)).parameters.values()
    takes_classes = any(
        p.name == "num_classes" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters
    )

    def build(classes: int) -> nn.Module:
        return registry.create(name, **({"num_classes": classes} if takes_classes else {}))

    return build


def networks(settings: Settings, factory: ModelFactory, classes: int) -> list[nn.Module]:
    """The network of every phase, the target last; the same for the same settings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        target = factory(classes)
    small = [
        downscale(
            target,
            size,
            target_size=settings.target_size,
            kernels=settings.kernels,
            keep=settings.keep,
        )
        for size in settings.pretrain_sizes
    ]
    return [*small, target]


def costs(found: list[nn.Module]) -> list[int]:
    """Multiply-accumulates per image of every phase; all 1 where there is but the target."""
    plans = [network.plan for network in found if isinstance(network, PretrainNetwork)]
    if not plans:
        return [1] * len(found)
    return [*(plan.pretrain_macs for plan in plans), plans[0].target_macs]
