"""Random numbers that Python draws while a model is traced.

`torch.randn(8, 1, 1)` and `random.random() < p` in `forward` come out anew in every call of the
target. In a graph, the number or the branch of the trace would stay for good. What is drawn with
the sizes of an input, as by `torch.rand_like(x)` and `torch.rand(x.shape[0])`, is a node of it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import fx, nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.refusal import refusal

Result = TypeVar("Result")
Watch = Callable[[fx.Node], None]
"""Called with every node that a trace has made."""

_REMEDY = (
    "draw them with the sizes of an input, as torch.rand_like(x) and torch.rand(x.shape[0], 1) do, "
    "and decide with torch.where, or use F.dropout"
)


def refusing_draws(model: nn.Module, trace: Callable[[Watch | None], Result]) -> Result:
    """Trace `model`; raise `UnsupportedModelError` if a number was drawn, which is taken back.

    To find the place, the generators are looked at before every node of a second trace.
    """
    before = _states()
    result = trace(None)
    if _states() == before:
        return result
    _restore(before)

    def watch(node: fx.Node) -> None:
        if _states() != before:
            _restore(before)
            raise refusal(
                node, "forward draws random numbers that its graph would keep", remedy=_REMEDY
            )

    trace(watch)
    _restore(before)
    raise UnsupportedModelError(
        f"the forward of {type(model).__name__} draws random numbers behind its last node",
        remedy=_REMEDY,
    )


@contextmanager
def keeping_generators() -> Iterator[None]:
    """Take back what is drawn while the context lasts."""
    before = _states()
    try:
        yield
    finally:
        if _states() != before:
            _restore(before)


def _states() -> tuple[Any, ...]:
    """Of the generators of torch, Python and, if it is there, NumPy."""
    numpy = sys.modules.get("numpy")
    states = bytes(torch.get_rng_state().tolist()), random.getstate()
    if numpy is None:
        return states
    name, key, *rest = numpy.random.get_state()
    return *states, (name, tuple(key.tolist()), *rest)


def _restore(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(torch.tensor(list(states[0]), dtype=torch.uint8))
    random.setstate(states[1])
    for numpy_state in states[2:]:
        sys.modules["numpy"].random.set_state(numpy_state)
