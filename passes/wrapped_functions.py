"""Functions that `torch.fx.wrap` keeps fx out of.

They are kept whole for decisions on sizes, as a rule (`if x.dim() == 3`), which fx cannot follow
and this tracer can. Unless one has a handler, it is therefore entered as any other function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FunctionType

from torch.fx._symbolic_trace import _wrapped_fns_to_patch


@contextmanager
def entering_wrapped_functions(leaves: Collection[object]) -> Iterator[None]:
    """While the context lasts, fx enters the functions that are not among `leaves`."""
    wrapped = dict(_wrapped_fns_to_patch)
    for key, names in wrapped.items():
        function = names.get(key[1])
        if isinstance(function, FunctionType) and function not in leaves:
            del _wrapped_fns_to_patch[key]
    try:
        yield
    finally:
        _wrapped_fns_to_patch.clear()
        _wrapped_fns_to_patch.update(wrapped)
