"""The networks of a run: the target and its pre-train networks, from name and seed alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxscale.compiler import downscale
from fxscale.errors import FxscaleError, SizeError, first_line
from fxscale.models import registry
from fxscale.passes.evaluate import quiet_failures
from fxscale.passes.kernels import KernelPolicy
from fxscale.plan import Size
from fxscale.pretrain_network import PretrainNetwork
from fxscale.target_size import infer_target_size
from fxscale.training.settings import Settings
from fxscale.valid_sizes import default_sizes

ModelFactory = Callable[[int], nn.Module]
"""From the number of classes to a target network with fresh weights."""

_PROBES = 7
"""Images that a network is tried on: so many that a hard-coded `view(-1, C * H * W)` never makes a
whole number of images out of smaller maps (7 (h/H)² is none), mixing them up."""


_CLASSES = 10
"""Any number: sizes do not depend on it."""


def named_model(name: str) -> ModelFactory:
    """The model of that name, its classes as many as there are, where its factory takes them."""
    parameters = inspect.signature(registry.resolve(name)).parameters.values()
    takes_classes = any(
        p.name == "num_classes" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters
    )

    def build(classes: int) -> nn.Module:
        return registry.create(name, **({"num_classes": classes} if takes_classes else {}))

    return build


def image_sizes(
    name: str,
    target_size: int | None,
    pretrain_sizes: tuple[int, ...] | None,
    *,
    kernels: KernelPolicy = "paper",
    keep: Sequence[str] = (),
) -> tuple[int, tuple[int, ...]]:
    """The sizes of a run; in place of `None`, what `fxscale.downscale` takes for the named model.

    **Raises:** `SizeError` where that is no square image; what `fxscale.downscale` raises.
    """
    if target_size is not None and pretrain_sizes is not None:
        return target_size, pretrain_sizes
    with torch.random.fork_rng(devices=[]):
        target = named_model(name)(_CLASSES)
    if pretrain_sizes is not None:
        return _square(infer_target_size(target)[0]), pretrain_sizes
    large, small = default_sizes(target, target_size=target_size, kernels=kernels, keep=keep)
    return _square(large), (_square(small),)


def _square(size: Size) -> int:
    if len(size) != 2 or size[0] != size[1]:
        raise SizeError(
            f"the network takes images of {size} pixels, and runs are of square ones: give the "
            f"target size and the pre-train sizes"
        )
    return size[0]


def networks(settings: Settings, factory: ModelFactory, classes: int) -> list[nn.Module]:
    """The network of every phase, the target last; the same for the same settings.

    **Raises:** what `fxscale.downscale` and `resized_progressively` raise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        target = factory(classes)
    kept = resized_progressively(target, settings.target_size, settings.progressive_sizes)
    small = [
        downscale(
            target,
            size,
            target_size=settings.target_size,
            kernels=settings.kernels,
            keep=settings.keep,
        )
        for size in settings.pretrain_sizes
    ]
    return [*small, *kept, target]


def resized_progressively(
    target: nn.Module, target_size: int, sizes: Sequence[int]
) -> list[nn.Module]:
    """A network with all of the target's kernels for each of `sizes`, smaller than `target_size`.

    That is the target itself, as often as there are sizes, or, if it does not take small images,
    pre-train networks of which all kernels are kept: a fully connected interface gets smaller.

    **Raises:** `SizeError` where neither is possible.
    """
    refused = _refusal(target, (target_size, *sizes)) if sizes else None
    if refused is None:
        return [target] * len(sizes)
    try:
        return [downscale(target, size, target_size=target_size, keep=["*"]) for size in sizes]
    except FxscaleError as error:
        raise SizeError(
            f"progressive resizing is impossible: {type(target).__name__}, unchanged, {refused}; "
            f"and with another head: {error}"
        ) from error


def _refusal(target: nn.Module, sizes: tuple[int, ...]) -> str | None:
    """Why the network, as it is, does not take images of all sizes; `None` where it does.

    Runs on fake tensors: nothing is computed.
    """
    network = copy.deepcopy(target)  # BatchNorm counts its batches, on fake tensors, too
    with FakeTensorMode(allow_non_fake_inputs=True), quiet_failures(), torch.no_grad():
        for training in (True, False):
            network.train(training)
            for size in sizes:
                try:
                    network(torch.empty(_PROBES, 3, size, size))
                except Exception as error:  # whatever the network raises
                    return f"does not take images of {size} px: {first_line(error)}"
    return None


def costs(found: list[nn.Module], settings: Settings) -> list[int]:
    """How much arithmetic an image takes in each phase, in any unit."""
    plans = [network.plan for network in found if isinstance(network, PretrainNetwork)]
    # The target's arithmetic follows the area of its images.
    whole = plans[0].target_macs if plans else settings.target_size**2
    areas = [(size / settings.target_size) ** 2 for size in settings.sizes[len(plans) :]]
    return [*(plan.pretrain_macs for plan in plans), *(round(whole * area) for area in areas)]
