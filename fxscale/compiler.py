"""`downscale`: from a target network to its pre-train network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fxscale.arguments import read_arguments
from fxscale.passes.kernels import KernelPolicy
from fxscale.passes.pipeline import Timings, compile_network
from fxscale.pretrain_network import PretrainNetwork
from fxscale.resample import Init


def downscale(
    model: nn.Module,
    input_size: int | Sequence[int] | None = None,
    *,
    target_size: int | Sequence[int] | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    kernels: KernelPolicy = "paper",
    keep: Sequence[str] = (),
    init: Init = "fan",
    leaf_modules: Sequence[type[nn.Module]] = (),
    concrete_args: Mapping[str, Any] | None = None,
    timings: Timings | None = None,
) -> PretrainNetwork:
    """Compile `model`, the target network, into a pre-train network (section 3.2 of the paper).

    The result has the target's architecture and parameter names with smaller kernels, for smaller
    images; it trains like any module, and `fxscale.upscale_state` maps its weights back. `model`
    itself is never changed.

    **Arguments:**

    - `model`: a convolutional network over images `(N, C, *size)` with 1 to 3 spatial axes.
    - `input_size`: pixels of the pre-train network's images, one int, or one per spatial axis.
        Default: the target size divided by the first layer's factor s (section 3.2.1), or, where
        that is too small, the smallest one that works.
    - `target_size`: pixels of the target's images. Default: the model's config where it carries
        one, else the size that its fully connected interface accepts, else 224.
    - `example_inputs`: the arguments of `model.forward`, for models that take more than one image;
        only shapes and dtypes are read.
    - `kernels`: pre-train kernel sizes: `"paper"` (Table 1), `"nearest"` (closest to the kernel
        times the input ratio), a mapping from name patterns to sizes, or a callable from
        `fxscale.passes.sites.Convolution` to a size.
    - `keep`: name patterns (`"layer1.*"`) of convolutions whose kernels stay.
    - `init`: `"fan"` for a fresh network: the target's initial weights, resized so that the
        variance over the fan-in and the sum of every kernel are kept; `"resample"` for a trained
        one: the weights whose upscaling comes closest to the target's.
    - `leaf_modules`: module classes that the tracer does not enter.
    - `concrete_args`: arguments of `forward` that are constants.
    - `timings`: filled with the seconds that each pass took.

    **Returns:** a `PretrainNetwork` (a `torch.fx.GraphModule`); its `plan` is a `ScalePlan`.

    **Raises:** `SizeError` for an impossible size, `UnsupportedModelError` (with node, reason and
    remedy) for a network that cannot be proven to come out right.
    """
    inputs, options = read_arguments(
        model,
        input_size,
        target_size=target_size,
        example_inputs=example_inputs,
        kernels=kernels,
        keep=keep,
        init=init,
        leaf_modules=leaf_modules,
        concrete_args=concrete_args,
    )
    small = compile_network(model, inputs, options, timings)
    _copy_modes(model, small)
    return small


def _copy_modes(model: nn.Module, small: nn.Module) -> None:
    """Frozen layers (a BatchNorm in eval mode inside a training network) stay as they are."""
    for name, module in model.named_modules():
        small.get_submodule(name).training = module.training
