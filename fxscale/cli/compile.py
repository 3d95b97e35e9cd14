"""From the options of a command to the compiled pre-train network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn
from torch.fx import GraphModule

from fxscale.cli.options import parse_kernels, parse_size
from fxscale.errors import StateMismatchError


def compiled(
    model: str,
    input_size: str | None,
    target_size: str | None,
    kernels: str,
    keep: list[str] | None,
    *,
    init: Literal["fan", "resample"] = "fan",
    weights: Path | None = None,
) -> GraphModule:
    """The pre-train network of the model called `model`, its options as written on a command line.

    `weights`: a safetensors file with the target's state, loaded before the model is compiled.
    """
    # Options first: a mistyped one is told at once, and not after a large model is built.
    small = None if input_size is None else parse_size(input_size)
    large = None if target_size is None else parse_size(target_size)
    policy = parse_kernels(kernels)

    import fxscale
    from fxscale.models import registry

    target = registry.create(model)
    if weights is not None:
        load_into(target, weights)
    return fxscale.downscale(
        target, small, target_size=large, kernels=policy, keep=tuple(keep or ()), init=init
    )


def load_into(target: nn.Module, weights: Path) -> None:
    """Load a safetensors file. Raises `StateMismatchError` where it does not fit the network."""
    from fxscale.weights import load_weights

    state, _ = load_weights(weights)
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        raise StateMismatchError(
            f"{weights} holds other weights than the model: {error}"
        ) from error
