"""Weight norm and spectral norm of `torch.nn.utils`, old style (hooks) and new (parametrisations).

1. `torch.nn.utils.weight_norm` and `spectral_norm` put a hook before `forward`, which goes on
   running in the pre-train network: the convolution stays a leaf.
2. `torch.nn.utils.parametrizations.weight_norm` is entered by the tracer and computes one function.
3. `torch.nn.utils.parametrizations.spectral_norm` is a module that keeps two singular vectors. It
   stays a leaf, for its power iterations run without gradient.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fxscale.passes.axes import Annotation, Axis, ComputedWeight, Dim, Dims, KernelEntry
from fxscale.passes.ops.registry import Call, handles


@handles(torch._weight_norm, params="v g dim")
def weight_norm(call: Call) -> Annotation:
    return call.annotation("v")


@handles(_SpectralNorm)
def spectral_norm(call: Call) -> Annotation:
    module = call.module
    assert isinstance(module, _SpectralNorm)
    dims = call.dims()
    if any(axis.kernel for dim in dims for axis in dim):
        vector = KernelEntry(f"{call.node.target}._v", _columns(dims, module.dim), "direction")
        call.annotator.kernel_entries[call.node] = vector
    return call.annotation("input")


def hooked_weight(name: str, module: nn.modules.conv._ConvNd) -> ComputedWeight | None:
    """How the one hook of a convolution computes its weight; `None` for any other hook."""
    if len(module._forward_pre_hooks) != 1:
        return None
    (hook,) = module._forward_pre_hooks.values()
    axes = tuple(Axis(k, spatial=True, kernel=True) if k > 1 else None for k in module.kernel_size)
    fixed: Dims = tuple(_fixed(n) for n in module.weight.shape[:2])
    dims = (*fixed, *((axis,) if axis else () for axis in axes))
    if isinstance(hook, WeightNorm) and hook.name == "weight":
        entry = KernelEntry(f"{name}.weight_v", dims, "kernel")
        gain: torch.Tensor = module.weight_g  # type: ignore[assignment]  # set by the hook
        shape = tuple(gain.shape) if gain.ndim else (1,) * len(dims)
        if any(n > 1 for n in shape[2:]):
            return None  # a norm per tap
        view = tuple(n for n, dim in zip(shape, dims, strict=True) for _ in dim)
        return ComputedWeight((entry,), axes, 0, -0.5, f"{name}.weight_g", view)
    if isinstance(hook, SpectralNorm) and hook.name == "weight":
        entry = KernelEntry(f"{name}.weight_orig", dims, "kernel")
        vector = KernelEntry(f"{name}.weight_v", _columns(dims, hook.dim), "direction")
        return ComputedWeight((entry, vector), axes, 0, -0.5)
    return None


def _columns(dims: Dims, row: int) -> Dims:
    """What the columns of the weight are made of, seen as a matrix whose rows are `row`."""
    return (tuple(axis for index, dim in enumerate(dims) if index != row for axis in dim),)


def _fixed(length: int) -> Dim:
    return () if length == 1 else (Axis(int(length), spatial=False),)
