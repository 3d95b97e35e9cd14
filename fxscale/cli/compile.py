"""From the options of a command to the compiled pre-train network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from torch import nn

from fxscale.cli.options import parse_kernels, parse_size
from fxscale.errors import StateMismatchError
from fxscale.pretrain_network import PretrainNetwork


class Compiled(NamedTuple):
    """A target network, which is never changed, and the pre-train network made of it."""

    target: nn.Module
    network: PretrainNetwork


def compiled(
    model: str,
    input_size: str | None,
    target_size: str | None,
    kernels: str,
    keep: list[str] | None,
    *,
    init: Literal["fan", "resample"] = "fan",
    weights: Path | None = None,
    quiet: bool = False,
) -> Compiled:
    """The networks of the model called `model`, the options as written on a command line.

    `weights`: a safetensors file with the target's state, loaded before the model is compiled.
    `quiet`: without a bar.
    """
    # Options first: a mistyped one is told at once, and not after a large model is built.
    small = None if input_size is None else parse_size(input_size)
    large = None if target_size is None else parse_size(target_size)
    policy = parse_kernels(kernels)

    from fxscale.cli.progress import ShownPasses, steps

    with steps(1 + ShownPasses.COUNT, quiet=quiet) as shown:
        shown(f"build {model}")
        import fxscale
        from fxscale.models import registry

        target = registry.create(model)
        if weights is not None:
            load_into(target, weights)
        network = fxscale.downscale(
            target,
            small,
            target_size=large,
            kernels=policy,
            keep=tuple(keep or ()),
            init=init,
            timings=ShownPasses(shown),
        )
    return Compiled(target, network)


def load_into(target: nn.Module, weights: Path) -> None:
    """Load a safetensors file.

    Raises `StateMismatchError` where it does not fit the network, or its plan is of a pre-train
    network that computes something else with the same weights.
    """
    from fxscale.plan_layout import layout, layout_of
    from fxscale.weights import load_weights

    state, plan = load_weights(weights)
    own = layout_of(target)
    if plan is not None and own is not None and layout(plan) != own:
        raise StateMismatchError(
            f"{weights} is of a pre-train network with other paddings or map sizes than the one "
            f"compiled now: give the options it was compiled with, --input-size first, or use the "
            f"version of fxscale that compiled it"
        )
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        raise StateMismatchError(
            f"{weights} holds other weights than the model: {error}"
        ) from error
