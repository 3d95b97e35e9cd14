"""Which operators write into a tensor instead of making one."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import fx

INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
"""Operators such as `x += y`, by the names that `operator` has for them."""

_FUNCTIONS = (operator.setitem, *(getattr(operator, name) for name in INPLACE))
_METHODS = frozenset(f"__{name}__" for name in (*INPLACE, "setitem"))


def changes_in_place(node: fx.Node) -> bool:
    """Whether an operator writes into its first operand, or into the one given as `out`."""
    if node.op == "call_method":
        return writes(str(node.target), node.kwargs)
    return "out" in node.kwargs or (node.op == "call_function" and node.target in _FUNCTIONS)


def writes(method: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a method of a tensor writes into it, or into the tensor given as `out`."""
    named = method.endswith("_") and not method.startswith("__")
    return "out" in kwargs or method in _METHODS or named
