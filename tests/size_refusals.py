"""Input sizes that are refused, and the sizes that the messages send to."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tests.refusal_cases import NAMED, Build, Case, body


def wrong(network: Build, size: object, better: object = 8) -> Case:
    """An input size that is refused, and one that is not; `NAMED`: that of the message."""
    return Case(network, options={"input_size": size}, remedy={"input_size": better})


LARGE_KERNEL = body(lambda m, x: m.next(x), next=nn.Conv2d(4, 4, 7))
ONE_PIXEL = body(lambda m, x: m.norm(F.max_pool2d(x, 6)), norm=nn.BatchNorm2d(4))

SIZES: dict[str, Case] = {
    "input size too small: …: … (… in the target), …": wrong(LARGE_KERNEL, 3, NAMED),
    "input size too small: …: one pixel is left to normalise over (… values in the target), "
    "too few for a batch of one image": wrong(ONE_PIXEL, 6, NAMED),
    "…; the smallest input_size that works is …": wrong(LARGE_KERNEL, 2, NAMED),
    "… must be an int or one int per spatial axis, found …": wrong(body(lambda m, x: x), "8"),
    "…=… has … entries, but the model has … spatial axes; pass one int per axis, or one int for "
    "all": wrong(body(lambda m, x: x), (8, 8, 8)),
    "… must be positive, found …": wrong(body(lambda m, x: x), 0),
    "input_size … is larger than the target's …; the pre-train network reads smaller images, "
    "choose a size below the target's": wrong(body(lambda m, x: x), 13),
    "no kernel of this model gets smaller by Table 1, so the paper's rule suggests no input size; "
    "pass input_size": wrong(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), None),
    "no square input of 8 to … pixels runs through … (at …: …); pass target_size, or "
    "example_inputs": Case(
        body(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(4 * 12 * 20, 2)),
        options={"input_size": None, "target_size": None},
        remedy={"target_size": (12, 20)},
    ),
}
