"""Networks that are refused once sizes are known, or when they are called; with the remedies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.passes.axes import Shape
from tests.refusal_cases import Build, Case, body


class Opaque(nn.Module):
    """A layer that the compiler asks its handler about."""

    def __init__(self, function: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Misread(Opaque):
    """One whose handler asks for an argument that there is not."""


class Misunderstood(Opaque):
    """One whose handler says that it drops the last axis."""


@fxscale.register(Opaque)
def same(call: Any) -> Any:
    return call.annotation("input")


@fxscale.register(Misread)
def misread(call: Any) -> Any:
    return call.annotation("output")


@fxscale.register(Misunderstood)
def misunderstood(call: Any) -> Any:
    return Shape(call.dims()[:-1])


def only_multiples_of_three(x: Tensor) -> Tensor:
    if x.shape[-1] % 3:
        raise RuntimeError("only multiples of 3")
    return x


def cut_below_nine(x: Tensor) -> Tensor:
    return x if x.shape[-1] >= 9 else x[..., 1:]


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of 12 pixels 6 each; of the 9 that a kernel of 2 makes of 8, 4 and 5."""
    return F.avg_pool2d(x, 2), F.avg_pool2d(x, 2, ceil_mode=True)


def pooled(m: Any, x: Tensor) -> Tensor:
    first, second = halves(x)
    out: Tensor = m.first(first) + m.second(second)
    return out


class Loud(nn.Module):
    """Decides by its own mode."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


@dataclass(frozen=True)
class Call:
    """A network and two uses of it: one that it refuses, and one as the message says."""

    network: Build
    refused: Callable[[nn.Module], object]
    mended: Callable[[nn.Module], object]


def images(samples: int) -> Tensor:
    return torch.zeros(samples, 3, 8, 8)


def with_quiet_layer(network: nn.Module) -> object:
    network.get_submodule("layer").eval()
    return network(images(2))


def opaque(layer: Opaque) -> Any:
    return body(lambda m, x: m.layer(x), layer=layer)


POOL = nn.AvgPool2d(6)
NINE = {"input_size": 9}

LATE: dict[str, Case] = {
    "the handler … of … failed: …: …": Case(opaque(Misread()), opaque(Opaque())),
    "the compiler expected the shape …, the model computes …": Case(
        opaque(Misunderstood()), opaque(Opaque())
    ),
    "… fails in the pre-train network: …": Case(
        opaque(Opaque(only_multiples_of_three)), remedy=NINE
    ),
    "… has the shape … in the pre-train network where … was planned": Case(
        opaque(Opaque(cut_below_nine)), remedy=NINE
    ),
    "Python code in forward took a number from a size: … is … at the target size and … at …": Case(
        body(lambda m, x: sum(x for _ in range(x.shape[-1] // 5))), remedy={"input_size": 10}
    ),
    "two calls of one module need different …: … and …": Case(
        body(pooled, first=POOL, second=POOL),
        body(pooled, first=nn.AvgPool2d(6), second=nn.AvgPool2d(6)),
    ),
    "two flattened feature maps meet that have different sizes in the pre-train network": Case(
        body(lambda m, x: torch.add(*(part.flatten(2) for part in halves(x)))),
        remedy=NINE,
    ),
}

CALLS: dict[str, Call] = {
    "forward decides by the batch size, and was compiled for a batch for which the condition is "
    "…": Call(
        body(lambda m, x: x.flip(0) if x.shape[0] > 2 else x),
        lambda network: network(images(3)),
        lambda network: network(images(1)),
    ),
    "… is in … mode, and the graph for the network in … mode was made with it in … mode: what … "
    "decides by its own mode cannot change any more": Call(
        body(lambda m, x: m.layer(x), layer=Loud()),
        with_quiet_layer,
        lambda network: network.eval()(images(2)),
    ),
}
