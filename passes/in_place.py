"""Which operators write into a tensor instead of making one."""

from __future__ import annotations

import operator

from torch import fx

INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
"""Operators such as `x += y`, by the names that `operator` has for them."""

_FUNCTIONS = (operator.setitem, *(getattr(operator, name) for name in INPLACE))
_METHODS = frozenset(f"__{name}__" for name in (*INPLACE, "setitem"))


def changes_in_place(node: fx.Node) -> bool:
    """Whether an operator writes into its first operand, or into the one given as `out`."""
    if "out" in node.kwargs:
        return True
    if node.op == "call_method":
        name = str(node.target)
        return name in _METHODS or (name.endswith("_") and not name.startswith("__"))
    return node.op == "call_function" and node.target in _FUNCTIONS
