"""Whether `forward` goes by gradients: `if torch.is_grad_enabled():`, `if x.requires_grad:`.

A network is traced with gradients, as it is trained. Evaluated without, its graph must still do
what the model does: where `forward` asks, both are run once more without (`passes/replay.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from fxscale.passes.refusal import refusal
from fxscale.passes.replay import Listener, first_other_call


@contextmanager
def noting_questions() -> Iterator[list[str]]:
    """While the context lasts, write down which code outside of torch asks for the mode."""
    askers: list[str] = []
    original = torch.is_grad_enabled

    def is_grad_enabled() -> bool:
        asker = str(sys._getframe(1).f_globals.get("__name__"))
        if asker.partition(".")[0] not in ("torch", "fxscale"):
            askers.append(asker)
        return original()

    torch.is_grad_enabled = is_grad_enabled
    try:
        yield askers
    finally:
        torch.is_grad_enabled = original


def check_without_gradients(graph: fx.Graph, inputs: Mapping[str, Any], listener: Listener) -> None:
    """Refuse a graph that calls other functions than its model does without gradients.

    Raises `UnsupportedModelError`.
    """
    with torch.no_grad():
        other = first_other_call(graph, inputs, listener)
    if other is not None:
        raise refusal(
            other.node,
            "forward goes another way where no gradients are recorded",
            remedy="decide by self.training",
        )
