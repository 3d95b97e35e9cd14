"""Proxies that answer what Python asks of the value that they stand for.

A proxy stands for a node of the graph that is being traced; its value at the target size is in
`node.meta[VALUE]`. What becomes of a question that only a value can answer, such as whether it is
true, the tracer decides.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import map_aggregate

from fxscale.passes.assignments import refuse_lost_data
from fxscale.passes.in_place import INPLACE
from fxscale.passes.refusal import refusal

if TYPE_CHECKING:
    from fxscale.passes.tracer import ValueTracer

VALUE = "fxscale_value"
"""Key of `node.meta` under which the value of a node at the target size is kept."""


_HOOKS = ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")
_LOAD_ATTR = dis.opmap["LOAD_ATTR"]


def class_of(value: Any) -> type:
    """The class of a value, where a fake tensor is a tensor."""
    return torch.Tensor if type(value) is FakeTensor else type(value)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor inside a node's value, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


class ValueProxy(fx.Proxy):
    """A proxy that answers what Python asks of a value: its truth, length, integer, items."""

    tracer: ValueTracer

    @property
    def value(self) -> Any:
        return self.node.meta[VALUE]

    @property  # type: ignore[misc]  # a class attribute, as a rule
    def __class__(self) -> type:
        """Written down, it is the value's; `isinstance` and torch ask it, too, of the proxy."""
        frame = sys._getframe(1)
        written = frame.f_code.co_code[frame.f_lasti] == _LOAD_ATTR
        return class_of(self.value) if written else type(self)

    def __getattr__(self, name: str) -> Any:  # see ValueAttribute
        if name == "ndim" and isinstance(self.value, torch.Tensor):
            return self.value.ndim  # no size decides it, and einops looks it up in a dict
        self.tracer.asks_for_gradients |= name in ("requires_grad", "grad_fn", "is_leaf")
        return ValueAttribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("data", "grad", "requires_grad"):
            refuse_lost_data(self, name, value)
        super().__setattr__(name, value)

    def __len__(self) -> int:
        return self.tracer.count(self.node)

    def __int__(self) -> int:
        return int(self.tracer.decide(self.node, int))

    def __index__(self) -> int:
        caller = sys._getframe(1)
        return self.tracer.decide_index(self.node, (caller, caller.f_lasti))

    def __float__(self) -> float:
        return float(self.tracer.decide(self.node, float))

    def __contains__(self, item: object) -> bool:
        return self.tracer.decide_contains(self, item)

    def __format__(self, spec: str) -> str:
        return format(repr(self) if isinstance(self.value, torch.Tensor) else self.value, spec)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _inplace(name: str) -> Callable[[ValueProxy, Any], Any]:
    function = getattr(operator, name)

    def method(self: ValueProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: ValueProxy, *others: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, *others), {})

    return method


# fx knows the operators, not the built-in functions that numbers answer.
for _builtin in (abs, round, divmod):
    setattr(ValueProxy, f"__{_builtin.__name__}__", _function(_builtin))


# fx falls back to the out-of-place operator, which computes the same but loses aliasing and
# needs more memory than the target does.
for _name in INPLACE:
    setattr(ValueProxy, f"__{_name}__", _inplace(_name))


class ValueAttribute(ValueProxy):
    """`proxy.name`: a method call when it is called, a `getattr` node when it is read."""

    def __init__(self, root: ValueProxy, name: str) -> None:
        self.root = root
        self.attr = name
        self.tracer = root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:  # type: ignore[override]  # created on first use, as fx.Attribute's
        if self._node is None:
            self._node = self.tracer.create_proxy(
                "call_function", getattr, (self.root, self.attr), {}
            ).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.attr in _HOOKS:
            raise refusal(
                self.root.node,
                f"a hook of {self.root.node.name!r} would not be in the graph",
                remedy="hook a module of the pre-train network (register_full_backward_hook)",
            )
        given = map(_lengths, args)
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *given), kwargs)


def _lengths(argument: Any) -> Any:
    """A size as a tuple of its lengths: each has a node then, and may come from another map."""
    size = isinstance(argument, ValueProxy) and isinstance(argument.value, torch.Size)
    return tuple(argument) if size else argument


def with_nodes(value: Any) -> Any:
    """A value with nodes for its proxies; an attribute that was not read yet stays unread."""

    def node_of(leaf: Any) -> Any:
        if isinstance(leaf, ValueAttribute) and leaf._node is None:
            return node_of(leaf.root), leaf.attr
        return leaf.node if isinstance(leaf, fx.Proxy) else leaf

    return map_aggregate(value, node_of)
