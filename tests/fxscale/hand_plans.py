"""Plans made by hand, so that resampling and transition are tested without the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import nn

from fxscale.fingerprint import fingerprint_of_shapes
from fxscale.plan import ScalePlan, StateMap

Shape = tuple[int, ...]


def kernel_map(key: str, before: Shape, after: Shape) -> StateMap:
    return StateMap(key, "kernel", before, after, before, after)


def interface_map(key: str, before: Shape, after: Shape) -> StateMap:
    """`before` and `after` are views `(n_out, C, *size)`; the weight itself is flat."""
    flat = [(n, prod(rest)) for n, *rest in (before, after)]
    return StateMap(key, "interface", flat[0], flat[1], before, after)


def feature_map(key: str, before: Shape, after: Shape) -> StateMap:
    return StateMap(key, "feature", before, after, before, after)


def copy_map(key: str, shape: Shape) -> StateMap:
    return StateMap(key, "copy", shape, shape, shape, shape)


def plan_of_maps(*maps: StateMap, model: str = "HandMade") -> ScalePlan:
    return ScalePlan(
        model=model,
        fingerprint=fingerprint_of_shapes({m.key: m.target_shape for m in maps}),
        target_size=(12,),
        pretrain_size=(8,),
        target_size_source="argument",
        kernels="paper",
        convs=(),
        interfaces=(),
        feature_maps=(),
        pad_operators=(),
        dense_macs=(0, 0),
        state=tuple(maps),
    )


class SmallNet(nn.Module):
    """Conv, BatchNorm, conv, FC interface, dropout, FC; the target at 12 px, pre-train at 8 px.

    `size` 12: kernels 3 and 3, feature maps 12 > 12 > 6. `size` 8: kernels 2 and 2, 8 > 8 > 4, the
    first conv padded on one side more.
    """

    def __init__(self, size: int = 12) -> None:
        super().__init__()
        kernel = size // 4
        self.pad = nn.ZeroPad2d((1, kernel - 2, 1, kernel - 2))
        self.conv = nn.Conv2d(2, 6, kernel, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, kernel, groups=6, padding=1)
        self.fc = nn.Linear(6 * (size // 2) ** 2, 10)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(10, 3)
        if size != 12:
            self.plan = small_plan()

    def forward(self, x):
        x = self.norm(self.conv(self.pad(x))).relu()
        size = x.shape[-1] // 2
        x = nn.functional.adaptive_avg_pool2d(self.depthwise(x).relu(), size)
        return self.head(self.drop(self.fc(x.flatten(1)).relu()))


def small_plan() -> ScalePlan:
    """From `SmallNet(8)` to `SmallNet(12)`."""
    resized: Mapping[str, StateMap] = {
        "conv.weight": kernel_map("conv.weight", (6, 2, 2, 2), (6, 2, 3, 3)),
        "depthwise.weight": kernel_map("depthwise.weight", (6, 1, 2, 2), (6, 1, 3, 3)),
        "fc.weight": interface_map("fc.weight", (10, 6, 4, 4), (10, 6, 6, 6)),
    }
    shapes = {key: tuple(entry.shape) for key, entry in SmallNet(12).state_dict().items()}
    maps = [resized.get(key, copy_map(key, shape)) for key, shape in shapes.items()]
    return plan_of_maps(*maps, model="SmallNet")
