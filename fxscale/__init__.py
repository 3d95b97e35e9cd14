"""fxscale: train a CNN on small images with small kernels first, then go on with the real one.

The three calls of a training run:

    small = fxscale.downscale(model, input_size=147)
    ...                                                     # train `small` as you always do
    model.load_state_dict(fxscale.upscale_state(small))     # training goes on with `model`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fxscale.batchnorm import reestimate_batchnorm
from fxscale.compiler import downscale
from fxscale.errors import (
    FxscaleError,
    OnnxError,
    PlanMismatchError,
    SizeError,
    StateMismatchError,
    UnsupportedModelError,
)
from fxscale.optimizer import upscale_optimizer
from fxscale.passes.ops.registry import handles as register
from fxscale.plan import ScalePlan
from fxscale.pretrain_network import PretrainNetwork
from fxscale.scheduler import move_scheduler
from fxscale.transition import transition
from fxscale.upscale import upscale_state
from fxscale.valid_sizes import ValidSize, valid_sizes

if TYPE_CHECKING:
    from fxscale.onnx import OnnxReport, export_onnx, validate_onnx

__version__ = "0.1.0"

__all__ = [
    "FxscaleError",
    "OnnxError",
    "OnnxReport",
    "PlanMismatchError",
    "PretrainNetwork",
    "ScalePlan",
    "SizeError",
    "StateMismatchError",
    "UnsupportedModelError",
    "ValidSize",
    "__version__",
    "downscale",
    "export_onnx",
    "move_scheduler",
    "reestimate_batchnorm",
    "register",
    "transition",
    "upscale_optimizer",
    "upscale_state",
    "valid_sizes",
    "validate_onnx",
]

_LAZY = dict.fromkeys(("OnnxReport", "export_onnx", "validate_onnx"), "fxscale.onnx")
"""Public names that most programs never use, and the modules, above this one, that hold them."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
