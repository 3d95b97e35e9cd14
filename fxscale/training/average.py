"""An exponential moving average of weights, and its way through a transition."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fxscale.upscale import plan_of, upscale_state
from fxscale.wrappers import unwrap


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An average of parameters and buffers that begins with the network's first update."""
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def average_after_transition(
    average: AveragedModel, pretrain: nn.Module, network: nn.Module, decay: float
) -> AveragedModel:
    """The average of `pretrain` as one of `network`: mapped as the weights are, and going on."""
    larger = averaged(network, decay)
    into = unwrap(network)
    state = upscale_state(
        plan_of(pretrain), average.module.state_dict(), into=into if hasattr(into, "plan") else None
    )
    larger.module.load_state_dict(state)
    larger.n_averaged.copy_(average.n_averaged)
    return larger
