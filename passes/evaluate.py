"""The value of one node on fake tensors, in the target and in the pre-train network."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import Argument
from torch.nn.utils.parametrizations import _SpectralNorm

from fxscale.contexts import CONTEXT_FUNCTIONS
from fxscale.passes.feature_maps import FeatureMapMode, Method
from fxscale.passes.in_place import changes_in_place
from fxscale.passes.with_blocks import autocast_of


@contextmanager
def quiet_failures() -> Iterator[None]:
    """Keep torch from logging the traceback of an operator that fails on fake tensors.

    Such a failure is reported once, as one of fxscale's errors.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was


def normalised(input: Any, *args: Any, **kwargs: Any) -> Any:
    """What BatchNorm makes of a feature map, as far as shape and dtype go: the map itself.

    Its decomposition would take most of a ResNet's tracing time.
    """
    return input


def evaluate_node(node: fx.Node, root: nn.Module, key: str, mode: FeatureMapMode) -> Any:
    """Compute one node in `mode` from the values that its arguments keep under `meta[key]`."""
    with quiet_failures(), autocast_of(node):
        return _evaluate_node(node, root, key, mode)


def _evaluate_node(node: fx.Node, root: nn.Module, key: str, mode: FeatureMapMode) -> Any:
    def load(argument: Argument) -> Any:
        return fx.node.map_arg(argument, lambda n: n.meta[key])

    args, kwargs = load(node.args), load(node.kwargs)
    if node.target in CONTEXT_FUNCTIONS:
        return None  # its effect is on the nodes of its block, which know it
    if node.target is F.batch_norm:
        return normalised(*args, **kwargs)
    if node.op in ("call_function", "call_method"):
        function: Any = Method(str(node.target)) if node.op == "call_method" else node.target
        if changes_in_place(node):
            return mode.write(function, *args, **kwargs)
        if function is getattr:
            return mode.compute(function, *args, **kwargs)
        return mode.feature_map(function, *args, **kwargs)
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        image = args[0] if args else None
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and isinstance(image, torch.Tensor):
            module._check_input_dim(image)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return normalised(image)
        if isinstance(module, _SpectralNorm):
            return image  # as it is, but for its amplitude; its buffers are not to be touched
        attributes = dict(vars(module))
        try:
            return mode.feature_map(module, *args, **kwargs)
        finally:
            vars(module).update(attributes)  # a hook writes the weight that it computed
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(root)
    if node.op == "output":
        return args[0]
    raise ValueError(f"cannot evaluate {node.op}")
