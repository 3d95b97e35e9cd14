"""Input sizes that are refused, and the sizes that the messages send to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import nn

from tests.refusal_cases import Build, body

SMALLEST = "smallest"


@dataclass(frozen=True)
class SizeCase:
    """A network and options of `downscale` that do not fit together, and what mends them.

    `input_size=SMALLEST` stands for the size that the message names.
    """

    network: Build
    options: Mapping[str, Any]
    remedy: Mapping[str, Any] = field(default_factory=lambda: {"input_size": 8})


LARGE_KERNEL = body(lambda m, x: m.next(x), next=nn.Conv2d(4, 4, 7))
ONE_PIXEL = body(lambda m, x: m.norm(F.max_pool2d(x, 6)), norm=nn.BatchNorm2d(4))

SIZES: dict[str, SizeCase] = {
    "input size too small: …: … (… in the target), …": SizeCase(
        LARGE_KERNEL, {"input_size": 3}, {"input_size": SMALLEST}
    ),
    "input size too small: …: one pixel is left to normalise over (… values in the target), "
    "too few for a batch of one image": SizeCase(
        ONE_PIXEL, {"input_size": 6}, {"input_size": SMALLEST}
    ),
    "…; the smallest input_size that works is …": SizeCase(
        LARGE_KERNEL, {"input_size": 2}, {"input_size": SMALLEST}
    ),
    "… must be an int or one int per spatial axis, found …": SizeCase(
        body(lambda m, x: x), {"input_size": "8"}
    ),
    "…=… has … entries, but the model has … spatial axes; pass one int per axis, or one int for "
    "all": SizeCase(body(lambda m, x: x), {"input_size": (8, 8, 8)}),
    "… must be positive, found …": SizeCase(body(lambda m, x: x), {"input_size": 0}),
    "input_size … is larger than the target's …; the pre-train network reads smaller images, "
    "choose a size below the target's": SizeCase(body(lambda m, x: x), {"input_size": 13}),
    "no kernel of this model gets smaller by Table 1, so the paper's rule suggests no input size; "
    "pass input_size": SizeCase(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), {"input_size": None}
    ),
    "no square input of 8 to … pixels runs through … (at …: …); pass target_size, or "
    "example_inputs": SizeCase(
        body(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(4 * 12 * 20, 2)),
        {"input_size": None, "target_size": None},
        {"target_size": (12, 20)},
    ),
}
