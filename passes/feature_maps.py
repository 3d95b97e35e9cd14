"""What a layer of torch.nn makes of a feature map, computed once for every equal layer.

A fake operator takes torch about a millisecond, most of a network's compile time. Networks repeat
their blocks, and each is evaluated in two modes: the same layer on the same feature map, but for
the values, which fake tensors do not have.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


class FeatureMapMode(FakeTensorMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """A fake mode that knows the feature maps which were computed in it, while a node keeps them.

    The mode does not keep them: they know the mode and, by their gradient functions, the target's
    parameters, a cycle that Python's collector does not see through.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.feature_maps: WeakValueDictionary[object, Tensor] = WeakValueDictionary()


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
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return (
        type(layer),
        repr(settings),
        *(None if tensor is None else _facts(tensor) for tensor in tensors),
        torch.is_grad_enabled(),
        torch.get_autocast_dtype(device) if cast else None,
    )


def _facts(tensor: Tensor) -> object:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad
