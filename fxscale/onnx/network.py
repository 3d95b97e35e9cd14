"""A module as the exporter should see it: in eval mode, and without its own graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import fx, nn


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[nn.Module]:
    """`module` in eval mode, without gradients; the mode of every submodule comes back after."""
    modes = [(child, child.training) for child in module.modules()]
    try:
        with torch.no_grad():
            yield module.eval()
    finally:
        module.train(modes[0][1])  # `train` may do more than set the flags
        for child, mode in modes:
            child.training = mode


def plain(module: nn.Module) -> nn.Module:
    """`module`, or where it is a `torch.fx.GraphModule`, an ordinary module over the same parts.

    `torch.export` interprets the graph of a graph module instead of calling `forward`. A pre-train
    network has a second graph for eval mode, which would then be passed over in silence.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    view_class = type(type(module).__name__, (nn.Module,), {"forward": type(module).forward})
    view = cast(nn.Module, object.__new__(view_class))
    view.__dict__.update(vars(module))  # the same parameters and submodules, under the same names
    return view
