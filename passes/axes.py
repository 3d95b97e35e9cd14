"""What flows from the annotate pass to the others: axes, and how axes come from one another.

Every dimension of every tensor is a product of original axes. An NCHW activation is
`(N) (C) (H) (W)`, after `flatten(1)` it is `(N) (C H W)`, after `permute(0, 2, 3, 1)` it is
`(N) (H) (W) (C)`, and a dimension of length 1 is the empty product. A fixed axis (batch, channels)
has the same length in both networks; the length of a spatial axis in the pre-train network is
what the geometry pass solves for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of one tensor; `target` is its length in the target network."""

    target: int
    spatial: bool

    def __repr__(self) -> str:
        return f"{'~' if self.spatial else ''}{self.target}"


Dim = tuple[Axis, ...]
Dims = tuple[Dim, ...]
Lengths = Mapping[Axis, int]
"""Length of every spatial axis in the pre-train network."""


def target_length(dim: Dim) -> int:
    return prod(axis.target for axis in dim)


def pretrain_length(dim: Dim, lengths: Lengths) -> int:
    return prod(pretrain_lengths(dim, lengths))


def pretrain_lengths(dim: Dim, lengths: Lengths) -> tuple[int, ...]:
    return tuple(lengths[axis] if axis.spatial else axis.target for axis in dim)


def is_spatial(dim: Dim) -> bool:
    return any(axis.spatial for axis in dim)


@dataclass(frozen=True)
class Shape:
    """Annotation of a tensor."""

    dims: Dims

    def __repr__(self) -> str:
        return " ".join("(" + " ".join(map(repr, dim)) + ")" for dim in self.dims)


@dataclass(frozen=True)
class Extent:
    """Annotation of an int that was read from a tensor's shape."""

    dim: Dim


Annotation = Any
"""A `Shape`, an `Extent`, a tuple, list or dict of annotations, or `None` for anything else."""


@dataclass(frozen=True, eq=False)
class Window:
    """A convolution, a pool, a strided slice or a pad, seen along one axis.

    `adjustable` says what the geometry pass may choose: `"conv"` the padding (an uneven or
    negative one costs a pad operator), `"pad"` the padding (the operator is there already),
    `"none"` nothing. `site` is the weight of a convolution, `position` the spatial axis within it.
    """

    node: fx.Node
    source: Axis
    out: Axis
    position: int
    kernel_size: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    ceil_mode: bool = False
    transposed: bool = False
    output_padding: int = 0
    adjustable: str = "none"
    site: str | None = None


@dataclass(frozen=True, eq=False)
class Refit:
    """The axis is laid anew over the same extent of the image: adaptive pools, interpolation.

    `scale` is the ratio of lengths out / source, or `None` where the layer names the output length
    (`AdaptiveAvgPool2d(7)`, `interpolate(size=56)`), which then scales like a feature map.
    """

    node: fx.Node
    source: Axis
    out: Axis
    scale: float | None


@dataclass(frozen=True)
class Operand:
    """One side of a join: `axis` is dimension `dim` of the tensor that `node` computes."""

    node: fx.Node
    dim: int
    axis: Axis


@dataclass(frozen=True, eq=False)
class Join:
    """Axes that meet in one tensor (a sum, a concatenation) and must have one length."""

    node: fx.Node
    out: Axis
    operands: tuple[Operand, ...]


Event = Window | Refit | Join


@dataclass(frozen=True)
class Substitution:
    """A size baked into the graph: an argument of `node`, or an attribute of its module.

    `value` has the structure of what it replaces, with a `Dim` for every size to recompute.
    """

    node: fx.Node
    argument: str | int | tuple[int | str, ...]
    value: Any
    attribute: str | None = None


@dataclass(frozen=True)
class ConvSite:
    """One call of a convolution found in the graph.

    `inputs` and `outputs` are the spatial dimensions before and behind it, `scales[i]` says whether
    the kernel runs over a spatial axis along axis `i`, and `tied[i]` is the source axis where the
    kernel covers the whole map along axis `i` (a convolution used as a fully connected layer): the
    kernel then follows the map, not Table 1.
    """

    node: fx.Node
    name: str
    weight: str
    operator: str
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    transposed: bool
    inputs: Dims
    outputs: Dims
    scales: tuple[bool, ...]
    tied: tuple[Axis | None, ...]


@dataclass(frozen=True)
class LinearSite:
    """One call of a linear layer; `dim` is what its input features are made of."""

    node: fx.Node
    name: str
    weight: str
    dim: Dim
    out_features: int
    rows: Dims
    """The dimensions over which the layer is applied, for counting its multiplications."""


@dataclass(frozen=True)
class FeatureEntry:
    """A parameter or buffer whose dimensions are those of a feature map."""

    key: str
    dims: Dims


@dataclass(frozen=True)
class AnnotatedNetwork:
    """The graph with an annotation per node, and everything that was found on the way."""

    annotations: Mapping[fx.Node, Annotation]
    events: tuple[Event, ...]
    inputs: tuple[tuple[Axis, ...], ...]
    convs: tuple[ConvSite, ...]
    linears: tuple[LinearSite, ...]
    features: tuple[FeatureEntry, ...]
    substitutions: tuple[Substitution, ...]
    outputs: frozenset[Axis]
    """The spatial axes of what the network returns."""
