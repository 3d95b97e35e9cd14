"""Functions and modules that `torch.compile` has compiled: the network is traced as it was written.

The pre-train network calls what was inside of them. Whoever wants it compiled compiles it whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def running_as_written() -> Iterator[None]:
    """While the context lasts, what is compiled runs as if it were not."""
    if "torch._dynamo" not in sys.modules:  # then nothing is, and importing it takes a second
        yield
        return
    entering = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
    with entering, torch.compiler.set_stance("force_eager"):
        yield
