"""What a layer of torch.nn makes of a feature map, computed once for every equal layer.

A fake operator takes torch about a millisecond, most of a network's compile time. Networks repeat
their blocks, and each is evaluated in two modes: the same layer on the same feature map, but for
the values, which fake tensors do not have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


class FeatureMapMode(FakeTensorMode):
    """A fake mode that keeps the feature maps which were computed in it."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.feature_maps: dict[object, Tensor] = {}


def feature_map(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """`layer(*args, **kwargs)`, or the fake tensor that an equal layer gave for an equal one.

    The same fake tensor may so be the value of several nodes: no operator that fxscale knows
    changes the shape of a tensor in place.
    """
    mode = getattr(args[0], "fake_mode", None) if len(args) == 1 and not kwargs else None
    if not (isinstance(mode, FeatureMapMode) and _is_plain(layer)):
        return layer(*args, **kwargs)
    key = _key(layer, args[0])
    known = mode.feature_maps.get(key)
    if known is None:
        known = layer(args[0])
        if isinstance(known, FakeTensor):
            mode.feature_maps[key] = known
    return known


def _is_plain(layer: nn.Module) -> bool:
    """One of torch's own classes, with nothing in it or around it that might compute more."""
    parts = (
        layer._modules,
        layer._buffers,
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    of_torch = type(layer).__module__.startswith("torch.nn.modules.")
    return of_torch and "forward" not in vars(layer) and not any(parts)


def _key(layer: nn.Module, image: Tensor) -> object:
    """All that decides about shape, strides, dtype, device and gradient of the layer's output.

    In torch.nn, no layer with a single tensor as output makes them depend on its `training`.
    """
    settings = {
        name: value
        for name, value in vars(layer).items()
        if not name.startswith("_") and name != "training"
    }
    tensors = [*layer._parameters.values(), image]
    device = image.device.type
    return (
        type(layer),
        repr(settings),
        *(None if tensor is None else _facts(tensor) for tensor in tensors),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
    )


def _facts(tensor: Tensor) -> object:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad
