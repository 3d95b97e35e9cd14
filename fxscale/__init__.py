"""fxscale: train a CNN on small images with small kernels first, then go on with the real one.

The three calls of a training run:

    small = fxscale.downscale(model, input_size=147)
    ...                                                     # train `small` as you always do
    model.load_state_dict(fxscale.upscale_state(small))     # training goes on with `model`
"""

from __future__ import annotations

from fxscale.batchnorm import reestimate_batchnorm
from fxscale.compiler import downscale
from fxscale.errors import (
    FxscaleError,
    PlanMismatchError,
    SizeError,
    StateMismatchError,
    UnsupportedModelError,
)
from fxscale.optimizer import upscale_optimizer
from fxscale.passes.ops.registry import handles as register
from fxscale.plan import ScalePlan
from fxscale.pretrain_network import PretrainNetwork
from fxscale.transition import transition
from fxscale.upscale import upscale_state

__version__ = "0.1.0"

__all__ = [
    "FxscaleError",
    "PlanMismatchError",
    "PretrainNetwork",
    "ScalePlan",
    "SizeError",
    "StateMismatchError",
    "UnsupportedModelError",
    "__version__",
    "downscale",
    "reestimate_batchnorm",
    "register",
    "transition",
    "upscale_optimizer",
    "upscale_state",
]
