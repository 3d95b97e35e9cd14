"""Which operators write into a tensor instead of making one, and which tensors share memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
"""Operators such as `x += y`, by the names that `operator` has for them."""

_FUNCTIONS = (operator.setitem, *(getattr(operator, name) for name in INPLACE))
_METHODS = frozenset(f"__{name}__" for name in (*INPLACE, "setitem"))


# Operators whose result may share its memory with their first operand.
_SHARED = ("chunk", "flatten", "narrow", "permute", "reshape", "split", "squeeze", "swapaxes")
_VIEW_FUNCTIONS: tuple[Any, ...] = (
    operator.getitem,
    getattr,
    *(getattr(torch, name) for name in (*_SHARED, "transpose", "unbind", "unsqueeze")),
)
_VIEW_METHODS = frozenset(
    (*_SHARED, "contiguous", "detach", "expand", "expand_as", "select", "t", "to", "transpose")
) | {"unbind", "unfold", "unsqueeze", "view", "view_as"}


def changes_in_place(node: fx.Node) -> bool:
    """Whether an operator writes into its first operand, or into the one given as `out`."""
    if node.op == "call_method":
        return writes(str(node.target), node.kwargs)
    assigns = node.op == "call_function" and node.target in _FUNCTIONS
    return assigns or node.kwargs.get("out") is not None


def writes(method: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a method of a tensor writes into it, or into the tensor given as `out`."""
    named = method.endswith("_") and not method.startswith("__")
    return kwargs.get("out") is not None or method in _METHODS or named


def _is_view(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _VIEW_METHODS
    return node.op == "call_function" and node.target in _VIEW_FUNCTIONS


def sharing(tensor: fx.Node) -> Iterator[fx.Node]:
    """The tensor, and those whose memory it shares, back to the one that was made."""
    yield tensor
    while _is_view(tensor) or changes_in_place(tensor):
        source = tensor.args[0]
        if not isinstance(source, fx.Node):
            return
        tensor = source
        yield tensor
