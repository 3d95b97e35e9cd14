"""What `downscale` and `valid_sizes` are given, checked, in the words of the compiler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from torch import nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.inputs import InputSpec, check_rank, describe_inputs, spatial_rank
from fxscale.passes.kernels import KernelPolicy
from fxscale.passes.pipeline import Options
from fxscale.passes.tracer import refuse_scripted
from fxscale.plan import Size
from fxscale.resample import Init
from fxscale.target_size import infer_target_size
from fxscale.wrappers import unwrap


class Arguments(TypedDict, total=False):
    """The keyword arguments that say what the target network is and what is to become of it.

    `fxscale.downscale` describes each of them.
    """

    target_size: int | Sequence[int] | None
    example_inputs: Sequence[Any] | Mapping[str, Any] | None
    kernels: KernelPolicy
    keep: Sequence[str]
    leaf_modules: Sequence[type[nn.Module]]
    concrete_args: Mapping[str, Any] | None


def read_arguments(
    model: nn.Module,
    input_size: int | Sequence[int] | None,
    *,
    target_size: int | Sequence[int] | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    kernels: KernelPolicy = "paper",
    keep: Sequence[str] = (),
    leaf_modules: Sequence[type[nn.Module]] = (),
    concrete_args: Mapping[str, Any] | None = None,
    init: Init = "fan",
) -> tuple[InputSpec, Options]:
    """What `downscale` was given, checked, in the words of the compiler."""
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"downscale needs a torch.nn.Module, found {type(model).__name__}",
            remedy="pass the model itself, not its class, its name or its state",
        )
    inner = unwrap(model)
    if inner is not model:
        raise UnsupportedModelError(
            f"the model is wrapped, a {type(inner).__name__} inside {type(model).__name__}",
            remedy="pass the network itself (model._orig_mod inside torch.compile, model.module "
            "inside DistributedDataParallel), and wrap the pre-train network in its turn",
        )
    keep = (keep,) if isinstance(keep, str) else keep
    _check_options(model, keep, leaf_modules, concrete_args or {})
    rank = spatial_rank(model, example_inputs)
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
    model: nn.Module,
    keep: object,
    leaf_modules: object,
    concrete_args: Mapping[str, Any],
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
    refuse_scripted(model, "")
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
