"""Calls of `torch.autograd.Function`, which a trace cannot hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from fxscale.passes.refusal import refusal


@contextmanager
def refusing_custom_functions() -> Iterator[None]:
    """Stop at a `torch.autograd.Function`: entering its forward would lose its backward."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, fx.Proxy):
                raise refusal(
                    argument.node,
                    f"{cls.__qualname__} is a torch.autograd.Function, whose backward a trace "
                    "would lose",
                    remedy="call it in a module of its own and register a handler for that module "
                    "with fxscale.register",
                )
        return original.__get__(None, cls)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original
