"""What a graph calls where the model calls a `torch.autograd.Function` of its own."""

from __future__ import annotations

from typing import Any

import torch


class Applied:
    """`function.apply`, with a name that generated code can call it by, and that pickles."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self.function = function
        self.__name__ = function.__name__
        self.__module__ = function.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Applied) and other.function is self.function

    def __hash__(self) -> int:
        return hash(self.function)
