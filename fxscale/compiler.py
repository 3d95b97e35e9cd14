"""`downscale`: from a target network to its pre-train network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.inputs import InputSpec, check_rank, describe_inputs, first_convolution
from fxscale.passes.kernels import KernelPolicy
from fxscale.passes.pipeline import Options, Timings, compile_network
from fxscale.plan import Size
from fxscale.pretrain_network import PretrainNetwork
from fxscale.resample import Init
from fxscale.target_size import infer_target_size


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
        Default: the target size divided by the first layer's factor s (section 3.2.1).
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


def read_arguments(
    model: nn.Module,
    input_size: int | Sequence[int] | None,
    *,
    target_size: int | Sequence[int] | None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None,
    kernels: KernelPolicy,
    keep: Sequence[str],
    leaf_modules: Sequence[type[nn.Module]],
    concrete_args: Mapping[str, Any] | None,
    init: Init = "fan",
) -> tuple[InputSpec, Options]:
    """What `downscale` was given, checked, in the words of the compiler."""
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"downscale needs a torch.nn.Module, found {type(model).__name__}",
            remedy="pass the model itself, not its class, its name or its state",
        )
    keep = (keep,) if isinstance(keep, str) else keep
    _check_options(model, keep, leaf_modules, concrete_args or {})
    rank = len(first_convolution(model).kernel_size)
    smaller = None if input_size is None else _size(input_size, rank, "input_size")
    size, source = _target_size(model, target_size, rank, has_examples=example_inputs is not None)
    inputs = describe_inputs(model, size, example_inputs, concrete_args or {})
    options = Options(
        input_size=smaller,
        kernels=kernels,
        keep=tuple(keep),
        init=init,
        leaf_modules=tuple(leaf_modules),
        concrete_args=dict(concrete_args or {}),
        target_size_source=source,
    )
    return inputs, options


def _check_options(
    model: nn.Module, keep: object, leaf_modules: object, concrete_args: Mapping[str, Any]
) -> None:
    if not _all(keep, lambda item: isinstance(item, str)):
        raise UnsupportedModelError(
            f"keep={keep!r} is not a sequence of name patterns",
            remedy='pass names or patterns of convolutions, such as ["layer1.*"]',
        )
    if not _all(leaf_modules, lambda c: isinstance(c, type) and issubclass(c, nn.Module)):
        raise UnsupportedModelError(
            f"leaf_modules={leaf_modules!r} is not a sequence of module classes",
            remedy="pass classes, such as [MyBlock], not modules or names",
        )
    parameters = inspect.signature(model.forward).parameters
    unknown = [name for name in concrete_args if name not in parameters]
    if unknown:
        raise UnsupportedModelError(
            f"concrete_args names {unknown[0]!r}, which {type(model).__name__}.forward does not "
            "take",
            remedy=f"name one of its arguments: {', '.join(parameters)}",
        )


def _all(items: object, fits: Callable[[Any], bool]) -> bool:
    return isinstance(items, Sequence) and all(map(fits, items))


def _size(size: int | Sequence[int], rank: int, name: str) -> Size:
    sequence = isinstance(size, Sequence) and not isinstance(size, str)
    return check_rank(tuple(size) if sequence else size, rank, name)  # type: ignore[arg-type]  # check_rank checks


def _target_size(
    model: nn.Module, given: int | Sequence[int] | None, rank: int, *, has_examples: bool
) -> tuple[Size | None, str]:
    if given is not None:
        return _size(given, rank, "target_size"), "given"
    if has_examples:
        return None, "the size of example_inputs"
    return infer_target_size(model)


def _copy_modes(model: nn.Module, small: nn.Module) -> None:
    """Frozen layers (a BatchNorm in eval mode inside a training network) stay as they are."""
    for name, module in model.named_modules():
        small.get_submodule(name).training = module.training
