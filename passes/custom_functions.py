"""Calls of `torch.autograd.Function`: kept whole where a handler is registered for the class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from fxscale.applied import Applied
from fxscale.passes.ops.registry import lookup
from fxscale.passes.refusal import refusal


@contextmanager
def keeping_custom_functions() -> Iterator[None]:
    """Enter no `torch.autograd.Function`: that would lose its backward."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        traced = (a for a in tree_leaves((args, kwargs)) if isinstance(a, fx.Proxy))
        first = next(traced, None)
        if first is None:
            return original.__get__(None, cls)(*args, **kwargs)
        if lookup(cls) is None:
            raise refusal(
                first.node,
                f"{cls.__qualname__} is a torch.autograd.Function, whose backward a trace would "
                "lose",
                remedy="register a handler for the class with fxscale.register, such as "
                'lambda call: call.annotation("input"), where the result has the shape of the '
                "input",
            )
        return first.tracer.create_proxy("call_function", Applied(cls), args, kwargs)

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original
