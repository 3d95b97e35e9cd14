"""Operators under their second names: `torch.multiply` is `torch.mul`.

So have arguments: torch takes NumPy's `axis` for its `dim`. The graph has the first names alone, so
that whoever knows an operator knows it under all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import fx

# The arguments of both are called the same.
FIRST_NAMES = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "clip": "clamp",
    "divide": "div",
    "fix": "trunc",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "moveaxis": "movedim",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "subtract": "sub",
    "true_divide": "div",
}
_FUNCTIONS: dict[Any, Any] = {
    getattr(torch, second): getattr(torch, first) for second, first in FIRST_NAMES.items()
}
_ARGUMENTS = {"axis": "dim", "keepdims": "keepdim"}
_METHODS = FIRST_NAMES | {f"{second}_": f"{first}_" for second, first in FIRST_NAMES.items()}


def use_first_names(nodes: Iterable[fx.Node]) -> None:
    """Calls every operator and argument by its first name; it computes the same."""
    for node in nodes:
        if node.op == "call_method" or isinstance(node.target, BuiltinFunctionType):
            node.kwargs = {_ARGUMENTS.get(name, name): v for name, v in node.kwargs.items()}
        if node.op == "call_function":
            node.target = _FUNCTIONS.get(node.target, node.target)
        elif node.op == "call_method":
            node.target = _METHODS.get(str(node.target), node.target)
