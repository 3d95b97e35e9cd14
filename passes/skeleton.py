"""The copy of a model that is traced: a module tree of its own over the model's own tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fxscale.errors import UnsupportedModelError, first_line


def share_tensors(model: nn.Module) -> nn.Module:
    """A copy of the module tree that shares the memory of all parameters and buffers."""
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise UnsupportedModelError(
            f"{type(model).__name__} has parameters whose shape is not known yet",
            remedy="call the model once on a batch of images, which makes its lazy modules",
        )
    state = (*model.parameters(), *model.buffers())
    memo: dict[int, Any] = {id(tensor): _alias(tensor) for tensor in state}
    memo |= stale_weights(model)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever the model's __deepcopy__ raises
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be copied: {first_line(error)}",
            remedy="make copy.deepcopy(model) work, for instance by dropping cached activations",
        ) from error


def stale_weights(model: nn.Module) -> dict[int, Any]:
    """Weights that hooks left behind in their last call, as `copy.deepcopy` can copy them.

    The hooks of weight norm and spectral norm write a new one before every call.
    """
    return {
        id(value): value.detach()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor over the same memory: what `forward` does to `weight.data` ends with it."""
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        return tensor  # a class of its own, such as a quantised weight's
    alias = tensor.detach()
    if isinstance(tensor, nn.Parameter):
        alias = nn.Parameter(alias, requires_grad=tensor.requires_grad)
    alias.__dict__.update(tensor.__dict__)
    return alias
