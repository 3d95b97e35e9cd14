"""Random numbers that Python draws while a model is traced.

`torch.randn(8, 1, 1)` and `random.random() < p` in `forward` come out anew in every call of the
target. In a graph, the number or the branch of the trace would stay for good. What is drawn with
the sizes of an input, as by `torch.rand_like(x)` and `torch.rand(x.shape[0])`, is a node of it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fxscale.errors import UnsupportedModelError


@contextmanager
def refusing_draws(model: nn.Module) -> Iterator[None]:
    """Raise `UnsupportedModelError` if a number was drawn meanwhile, which is taken back."""
    before, numpy = (torch.get_rng_state(), random.getstate()), _numpy_state()
    yield
    if (
        torch.equal(torch.get_rng_state(), before[0])
        and random.getstate() == before[1]
        and _key(_numpy_state()) == _key(numpy)
    ):
        return
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    if numpy is not None:
        sys.modules["numpy"].random.set_state(numpy)
    raise UnsupportedModelError(
        f"the forward of {type(model).__name__} draws random numbers that its graph would keep",
        remedy="draw them with the sizes of an input, as torch.rand_like(x) and "
        "torch.rand(x.shape[0], 1) do, and decide with torch.where, or use F.dropout",
    )


def _numpy_state() -> Any:
    """That of NumPy's own generator, if NumPy is there."""
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()


def _key(state: Any) -> object:
    return None if state is None else (state[1].tolist(), *state[2:])
