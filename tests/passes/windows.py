"""A window of no network, for what depends on its numbers alone."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx

from fxscale.passes.axes import Axis, Window

NODE = fx.Graph().call_function(F.max_pool1d)


def window(**fields: Any) -> Window:
    axis = Axis(1, spatial=True)
    return Window(NODE, axis, axis, 0, **fields)
