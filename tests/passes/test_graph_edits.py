"""Edits of a graph: arguments by name, wherever they stand."""

from __future__ import annotations

import torch.nn.functional as F

from fxscale.passes.graph_edits import set_argument
from tests.passes.networks import Around, traced


def test_set_argument() -> None:
    graph = traced(Around(lambda m, x: F.max_pool2d(x, 2, padding=1))).graph
    node = next(n for n in graph.nodes if "max_pool2d" in n.name)
    set_argument(node, "kernel_size", 3)
    set_argument(node, "padding", 0)
    set_argument(node, "ceil_mode", True)
    assert node.args[1:] == (3,)
    assert node.kwargs["padding"] == 0
    assert node.kwargs["ceil_mode"] is True
