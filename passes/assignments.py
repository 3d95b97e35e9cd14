"""Tensors that `forward` assigns to attributes of modules, and to the data of tensors.

A graph has no assignments. What an operator has written in place (`self.weight.data *= self.mask`)
is in the graph already. A cache that every call makes anew is of no use to another network, and is
dropped. What is left would be lost, and is refused:

1. `self.mean = 0.9 * self.mean + 0.1 * x.mean(0)`: a buffer, or a tensor that is read before it is
   assigned, or in the other mode, is what one call leaves for the next;
2. `weight.data = F.normalize(weight.data)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from fxscale.errors import UnsupportedModelError
from fxscale.passes.in_place import changes_in_place, sharing
from fxscale.passes.refusal import refusal

_ASSIGN_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]  # a Tensor, to torch's stubs
_REMEDY = "write in place, which the graph holds: self.mean.copy_(new), weight.data.mul_(mask)"


@dataclass(frozen=True)
class Assigned:
    """The tensor `holder[key]` of the model, its `name`, and the `node` assigned in its place.

    Where there was no tensor, `before` is zeros in its place.
    """

    before: Tensor
    node: fx.Node
    name: str
    holder: Any
    key: Any
    persistent: bool = False


@contextmanager
def noting_assignments() -> Iterator[list[Assigned]]:
    """While the context lasts, write down which tensors of modules proxies are assigned for."""
    found: list[Assigned] = []
    original = nn.Module.__setattr__

    def assign(self: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, fx.Proxy):
            before = _tensor(self, name)
            written = before is not None and _is_written(before, value)
            if isinstance(before, nn.Parameter):
                if not written:
                    raise lost(value.node, f"{type(self).__name__}.{name}")
                return
            if before is not None and not written:
                found.append(_assigned(self, name, before, value.node))
        original(self, name, value)

    nn.Module.__setattr__ = assign  # type: ignore[method-assign]  # as fx replaces __call__; put back
    try:
        yield found
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]  # what it was before


def _is_written(tensor: Tensor, value: fx.Proxy) -> bool:
    """Whether `value` is the tensor itself, written in place."""
    *_, made = sharing(value.node)
    tracer: Any = value.tracer
    read = made.op == "get_attr" and made.target == tracer.path_of(tensor)
    return read and changes_in_place(value.node)


def _assigned(module: nn.Module, name: str, before: Tensor, node: fx.Node) -> Assigned:
    buffer = name in module._buffers
    return Assigned(
        before,
        node,
        f"{type(module).__name__}.{name}",
        holder=module._buffers if buffer else vars(module),
        key=name,
        persistent=buffer and name not in module._non_persistent_buffers_set,
    )


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    """The tensor that a module holds under a name, unless a proxy has taken its place."""
    for attributes in (module._parameters, module._buffers, vars(module)):
        value = attributes.get(name)
        if isinstance(value, Tensor) and not isinstance(value, fx.Proxy):
            return value
    return None


def refuse_lost_data(proxy: fx.Proxy, name: str, value: Any) -> None:
    """Raise `UnsupportedModelError` unless an operator has written `value` into the tensor."""
    written = isinstance(value, fx.Proxy) and changes_in_place(value.node)
    if name != "data" or not written or proxy.node not in sharing(value.node):
        raise lost(proxy.node, f"{proxy.node.name}.{name}")


def lost(node: fx.Node, name: str) -> UnsupportedModelError:
    return refusal(
        node, f"forward assigns to {name}, which the next call would not find", remedy=_REMEDY
    )


def assigns_data(function: Any) -> bool:
    """Whether a function of torch is the assignment `tensor.data = ...`."""
    return bool(function == _ASSIGN_DATA)


class KeepingData(TorchFunctionMode):
    """No `tensor.data = ...` takes place: a fake tensor would become a weight's."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return None if assigns_data(function) else function(*args, **(kwargs or {}))
