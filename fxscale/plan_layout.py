"""A short name for how a pre-train network computes: what ties its weights to it.

The weights of a network fit every other one with kernels of the same sizes. With other paddings it
computes something else, and nobody is told: so it is with weights that were trained by one version
of fxscale, where another one chooses other paddings for the same target network and image size.
"""

from __future__ import annotations

import hashlib
import json

from torch import nn

from fxscale.plan import ScalePlan


def layout_of(network: nn.Module) -> str | None:
    """`layout` of a pre-train network; `None` for any other, which is what its user made it."""
    plan = getattr(network, "plan", None)
    return layout(plan) if isinstance(plan, ScalePlan) else None


def layout(plan: ScalePlan) -> str:
    """SHA-256, in hex, over image size, kernels, paddings and map sizes; names do not count."""
    convolutions = [
        [
            conv.pretrain_kernel_size,
            [[call.pretrain_padding, call.pretrain_output] for call in conv.calls],
        ]
        for conv in plan.convs
    ]
    maps = [feature_map.pretrain_size for feature_map in plan.feature_maps]
    pools = [[pool.pretrain_padding for pool in plan.pools]] if plan.pools else []
    document = json.dumps([plan.pretrain_size, convolutions, maps, *pools])
    return hashlib.sha256(document.encode()).hexdigest()
