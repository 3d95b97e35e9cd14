"""`ScalePlan`: everything the compiler decided, complete before a tensor is touched.

Sizes are tuples with one entry per spatial axis, `(L,)`, `(H, W)` or `(D, H, W)`. A padding is one
`(before, after)` pair per axis; a negative entry is a crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

Size = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]

PLAN_VERSION = 1


@dataclass(frozen=True)
class StateMap:
    """How one entry of the pre-train network's state becomes the target's.

    `kind` is one of

    1. `"copy"`: the entry is the target's, unchanged;
    2. `"kernel"`: a convolution kernel, resized over its spatial axes (Eq. 5);
    3. `"interface"`: the weight of a fully connected interface, viewed as `(n_out, C, H', W')`,
       resized over the spatial axes, flattened again (section 3.3.2);
    4. `"feature"`: a parameter or buffer laid out over a feature map (position embedding, affine
       weight of a `LayerNorm([C, H, W])`): resized, amplitude untouched.

    `pretrain_view` and `target_view` have equal rank; the axes in which they differ are resized.
    """

    key: str
    kind: Literal["copy", "kernel", "interface", "feature"]
    pretrain_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    pretrain_view: tuple[int, ...]
    target_view: tuple[int, ...]

    @property
    def gain(self) -> float:
        """Amplitude factor `product(k' / k)`, so that the sum over more taps stays the same."""
        if self.kind in ("copy", "feature"):
            return 1.0
        return prod(self.pretrain_view) / prod(self.target_view)


@dataclass(frozen=True)
class ConvCall:
    """One call of a convolution: a module that is called twice has two."""

    node: str
    target_input: Size
    target_output: Size
    pretrain_input: Size
    pretrain_output: Size
    target_padding: Padding
    pretrain_padding: Padding
    pad_operator: bool


@dataclass(frozen=True)
class ConvPlan:
    """One convolution of the target and what it becomes in the pre-train network."""

    name: str
    weight: str
    operator: str
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: Size
    pretrain_kernel_size: Size
    stride: Size
    dilation: Size
    calls: tuple[ConvCall, ...]


@dataclass(frozen=True)
class InterfacePlan:
    """A fully connected interface: a linear layer whose inputs are a flattened feature map."""

    name: str
    weight: str
    channels: int
    out_features: int
    target_size: Size
    pretrain_size: Size


@dataclass(frozen=True)
class FeatureMap:
    """A spatial tensor of the graph: its size in both networks, and how far the grids drift.

    `drift[i]` is the distance between the centres of the two maps along axis `i`, taken in
    fractions of the input image and expressed in pixels of the pre-train map (one pixel = its
    accumulated stride).
    """

    node: str
    module: str
    target_size: Size
    pretrain_size: Size
    drift: tuple[float, ...]


@dataclass(frozen=True)
class ScalePlan:
    """What `downscale` decided for one target network and one pre-train input size."""

    model: str
    fingerprint: str
    target_size: Size
    pretrain_size: Size
    target_size_source: str
    kernels: str
    convs: tuple[ConvPlan, ...]
    interfaces: tuple[InterfacePlan, ...]
    feature_maps: tuple[FeatureMap, ...]
    pad_operators: tuple[str, ...]
    """Names of the pad and crop operators that had to be inserted."""
    dense_macs: tuple[int, int]
    """Multiply-accumulates per sample of all linear layers, target and pre-train."""
    state: tuple[StateMap, ...]
    version: int = PLAN_VERSION
