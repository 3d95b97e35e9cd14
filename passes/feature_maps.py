"""What an operator makes of a feature map, computed once for equal operators on equal feature maps.

A fake operator takes torch about a millisecond, most of a network's compile time. Networks repeat
their blocks, and each is evaluated in two modes: the same operator on the same feature map, but for
the values, which fake tensors do not have.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import EllipsisType, NoneType
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdRef

_PYTHON = (NoneType, EllipsisType, bool, int, float, str)
_LITERALS = {*_PYTHON, torch.dtype, torch.device, torch.layout, torch.memory_format}
"""Types of the arguments that are what they are, whatever tensors stand beside them."""


class FeatureMapMode(FakeTensorMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """A fake mode that knows the feature maps which were computed in it, while a node keeps them.

    The mode does not keep them: they know the mode and, by their gradient functions, the target's
    parameters, a cycle that Python's collector does not see through.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.feature_maps: WeakValueDictionary[object, Tensor] = WeakValueDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Of tensors that are not fake, an operator would write into the model's own."""
        if func._schema.is_mutable:
            leaves, structure = tree_flatten((args, kwargs or {}))
            if not any(isinstance(leaf, FakeTensor) for leaf in leaves):
                args, kwargs = tree_unflatten(map(self._fake, leaves), structure)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def compute(self, operator: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`operator(*args, **kwargs)` in this mode.

        The first argument, if it is written into, may be the value of other nodes, too. Autograd
        would object to views of it, and is not told: it has no contents that could be wrong.
        """
        first: Any = args[0] if args else None
        counted = isinstance(first, FakeTensor) and not first.is_inference()
        with self, _unsafe_preserve_version_counter(first) if counted else nullcontext():
            return operator(*args, **kwargs)

    def write(self, operator: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`compute` for an operator that writes into its first argument, or into `out`.

        A tensor of the model is not written into, nor told of the gradient: a fake one is.
        """
        kwargs = {k: self._fake(v) if k == "out" else v for k, v in kwargs.items()}
        with torch.no_grad():  # the model may have written into a parameter in such a block
            return self.compute(operator, *map(self._fake, args[:1]), *args[1:], **kwargs)

    def _fake(self, value: Any) -> Any:
        real = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return self.from_tensor(value) if real else value

    def feature_map(self, operator: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `compute` gives, or the fake tensor that it gave for an equal operator and tensors.

        `operator` is a layer, a function or a `Method`, and changes none of its arguments' shapes.
        The same fake tensor may so be the value of several nodes: no operator that fxscale knows
        changes the shape of a tensor in place.
        """
        try:
            key = _key(operator, args, kwargs)
        except _UnknownError:
            return self.compute(operator, *args, **kwargs)
        known = self.feature_maps.get(key)
        if known is None:
            known = self.compute(operator, *args, **kwargs)
            if isinstance(known, FakeTensor) and known.constant is None:
                self.feature_maps[key] = known
        return known


@dataclass(frozen=True)
class Method:
    """A method of a tensor, as the function that takes the tensor first."""

    name: str

    def __call__(self, owner: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(owner, self.name)(*args, **kwargs)


class _UnknownError(Exception):
    """An operator, or an argument, of which it is not known on what its result depends."""


def _key(operator: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """All that decides about shape, strides, dtype, device and gradient of the result."""
    return (
        _operator_key(operator, args, kwargs),
        *map(_facts, args),
        *((name, _facts(value)) for name, value in kwargs.items()),
        torch.is_grad_enabled(),
    )


def _operator_key(
    operator: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> object:
    """torch's own functions and methods by themselves, its plain layers by their settings.

    In torch.nn, no layer with a single tensor as output makes it depend on its `training`.
    """
    if isinstance(operator, nn.Module):
        if len(args) != 1 or kwargs or not _is_plain(operator):
            raise _UnknownError
        settings = {
            name: value
            for name, value in vars(operator).items()
            if not name.startswith("_") and name != "training"
        }
        return (type(operator), repr(settings), *map(_facts, operator._parameters.values()))
    if isinstance(operator, Method) and isinstance(args[0], Tensor):
        return operator.name
    package = (getattr(operator, "__module__", None) or "").partition(".")[0]
    if package in ("torch", "_operator"):
        return operator
    raise _UnknownError


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


def _facts(value: Any) -> object:
    """What of an argument decides about the result; the contents of a fake tensor do not."""
    if isinstance(value, FakeTensor | nn.Parameter):
        if getattr(value, "constant", None) is not None:
            raise _UnknownError  # a number whose contents torch keeps
        facts = value.shape, value.stride(), value.dtype, value.device, value.requires_grad
        return *facts, _autocast(value.device.type)
    if isinstance(value, Tensor) and not value.is_inference():  # a constant, which may be an index
        return WeakIdRef(value), value._version, _autocast(value.device.type)
    if type(value) in _LITERALS:
        return type(value), value
    if isinstance(value, slice):
        return slice, _facts(value.start), _facts(value.stop), _facts(value.step)
    if isinstance(value, tuple | list):
        return (type(value), *map(_facts, value))
    raise _UnknownError


def _autocast(device: str) -> torch.dtype | None:
    """To what operators on this device cast their operands."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None
