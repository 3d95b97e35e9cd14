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
    generators = _Generators(model)
    result = trace(None)
    if not generators.drawn():
        return result
    generators.restore()

    def watch(node: fx.Node) -> None:
        if generators.drawn():
            generators.restore()
            raise refusal(
                node, "forward draws random numbers that its graph would keep", remedy=_REMEDY
            )

    trace(watch)
    generators.restore()
    raise UnsupportedModelError(
        f"the forward of {type(model).__name__} draws random numbers behind its last node",
        remedy=_REMEDY,
    )


@contextmanager
def keeping_generators(model: nn.Module) -> Iterator[None]:
    """Take back what is drawn while the context lasts."""
    generators = _Generators(model)
    try:
        yield
    finally:
        if generators.drawn():
            generators.restore()


class _Generators:
    """The states of torch's generators, of Python's and, where it is there, of NumPy's.

    Those of CUDA, where it is in use when they are read. And of the generators of torch that are
    attributes of the model's modules.
    """

    def __init__(self, model: nn.Module) -> None:
        attributes = (value for module in model.modules() for value in vars(module).values())
        self._own = [value for value in attributes if isinstance(value, torch.Generator)]
        self._cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._states = self._read()

    def drawn(self) -> bool:
        return self._read() != self._states

    def restore(self) -> None:
        cpu, python, cuda, own, *numpy_state = self._states
        for generator, state in zip(self._own, own, strict=True):
            generator.set_state(_tensor(state))
        torch.set_rng_state(_tensor(cpu))
        random.setstate(python)
        if self._cuda:
            torch.cuda.set_rng_state_all(map(_tensor, cuda))
        for state in numpy_state:
            sys.modules["numpy"].random.set_state(state)

    def _read(self) -> tuple[Any, ...]:
        cuda = torch.cuda.get_rng_state_all() if self._cuda else []
        states = bytes(torch.get_rng_state().tolist()), random.getstate()
        devices = tuple(bytes(state.tolist()) for state in cuda)
        own = tuple(bytes(generator.get_state().tolist()) for generator in self._own)
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return *states, devices, own
        name, key, *rest = numpy.random.get_state()
        return *states, devices, own, (name, tuple(key.tolist()), *rest)


def _tensor(state: bytes) -> torch.Tensor:
    return torch.tensor(list(state), dtype=torch.uint8)
