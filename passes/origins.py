"""What the value of a node depends on: an image, the sizes of images, or neither.

A tensor that depends on no image is a constant of the target: a relative position bias, an
attention mask, a grid of coordinates. Where it is made from sizes (`torch.arange(x.shape[-1])`), it
comes out at the pre-train network's size by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from math import isinf
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from fxscale.passes.proxies import VALUE, tensors_in

_LIKE = ("to", "type_as")
"""Methods that read of their argument nothing but dtype and device."""


class Origin(Enum):
    """The most that a value depends on."""

    CONSTANT = auto()
    SIZE = auto()
    IMAGE = auto()


def origin_of(node: fx.Node, origins: Mapping[fx.Node, Origin]) -> Origin:
    """The origin of a node with its operands' origins known.

    What is read from an image without its contents (its shape) depends on sizes at most; whether it
    does, its annotation tells.
    """
    if node.op == "placeholder":
        return Origin.IMAGE if holds_tensor(node) else Origin.CONSTANT
    sources = node.all_input_nodes
    if node.op == "call_method" and node.target in _LIKE:
        sources = [source for source in sources if source is node.args[0]]
    found = {origins[source] for source in sources if source in origins}
    if Origin.IMAGE in found and holds_tensor(node):
        return Origin.IMAGE
    return Origin.SIZE if Origin.SIZE in found else Origin.CONSTANT


def holds_tensor(node: fx.Node) -> bool:
    return next(tensors_in(node.meta[VALUE]), None) is not None


def has_no_order(node: fx.Node, model: nn.Module, origins: Mapping[fx.Node, Origin]) -> bool:
    """Whether a constant is a mask or an index, between whose values nothing lies.

    So are booleans, integers, and what is computed with infinities (`masked_fill(mask, -inf)`).
    What an image went through before its size was read does not count.
    """
    value = node.meta[VALUE]
    if isinstance(value, torch.Tensor) and not value.is_floating_point():
        return True
    seen: set[fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        pending += [n for n in current.all_input_nodes if origins[n] is not Origin.IMAGE]
        if current.op == "get_attr" and _holds_infinity(model, str(current.target)):
            return True
        if any(map(_infinite, _literals((current.args, current.kwargs)))):
            return True
    return False


def _holds_infinity(model: nn.Module, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    tensor = getattr(model.get_submodule(owner), attribute)
    if not isinstance(tensor, torch.Tensor) or isinstance(tensor, nn.Parameter):
        return False
    if tensor.is_meta or isinstance(tensor, FakeTensor) or not tensor.is_floating_point():
        return False
    return bool(torch.isinf(tensor).any())


def _literals(argument: Any) -> Iterable[Any]:
    if isinstance(argument, tuple | list):
        for item in argument:
            yield from _literals(item)
    elif isinstance(argument, dict):
        yield from _literals(list(argument.values()))
    else:
        yield argument


def _infinite(literal: Any) -> bool:
    return isinstance(literal, float) and isinf(literal)
