"""What flows from the annotate pass to the others: axes, and how axes come from one another.

Every dimension of every tensor is a product of original axes. An NCHW activation is
`(N) (C) (H) (W)`, after `flatten(1)` it is `(N) (C H W)`, after `permute(0, 2, 3, 1)` it is
`(N) (H) (W) (C)`, and a dimension of length 1 is the empty product. A fixed axis (batch, channels)
has the same length in both networks; the length of a spatial axis in the pre-train network is
what the geometry pass solves for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from torch import fx

from fxscale.errors import UnsupportedModelError

if TYPE_CHECKING:
    from fxscale.passes.relative_positions import RelativeRead


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of one tensor; `target` is its length in the target network.

    A `spatial` axis may have another length in the pre-train network. A `kernel` axis is a spatial
    axis of a weight that is computed in the graph: its length is the kernel size that is chosen.
    The `batch` of the images has any length, and the one of the trace nowhere else.
    """

    target: int
    spatial: bool
    kernel: bool = False
    batch: bool = False

    def length(self, lengths: Lengths) -> int:
        """Its length in the pre-train network."""
        return lengths[self] if self.spatial else self.target

    def maps(self) -> Iterator[Axis]:
        """The axes of maps that it is made of."""
        if self.spatial:
            yield self

    def __repr__(self) -> str:
        return f"{'k' if self.kernel else '~' if self.spatial else ''}{self.target}"


@dataclass(frozen=True, eq=False)
class Row(Axis):
    """The pixels of a flattened map as one row, over which a pool has run.

    Its length is known, but no entry of it lies at one place of the image in both networks: nothing
    can be laid over it, and it is no map any more.
    """

    def __repr__(self) -> str:
        return f"~{self.target} in a row"


Dim = tuple[Axis, ...]
Dims = tuple[Dim, ...]
Lengths = Mapping[Axis, int]
"""Length of every spatial axis in the pre-train network."""


def fixed_dim(length: int) -> Dim:
    """A dimension that has this length in both networks."""
    return () if length == 1 else (Axis(int(length), spatial=False),)


def target_length(dim: Dim) -> int:
    return prod(axis.target for axis in dim)


def pretrain_length(dim: Dim, lengths: Lengths) -> int:
    return prod(pretrain_lengths(dim, lengths))


def pretrain_lengths(dim: Dim, lengths: Lengths) -> tuple[int, ...]:
    return tuple(axis.length(lengths) for axis in dim)


def map_axes(dim: Dim) -> Iterator[Axis]:
    """The spatial axes of a dimension, those of concatenated parts included."""
    return (found for axis in dim for found in axis.maps())


def is_spatial(dim: Dim) -> bool:
    return any(axis.spatial for axis in dim)


@dataclass(frozen=True)
class Shape:
    """Annotation of a tensor."""

    dims: Dims

    def __repr__(self) -> str:
        return " ".join("(" + " ".join(map(repr, dim)) + ")" for dim in self.dims)


@dataclass(frozen=True)
class SelfSized(Shape):
    """Annotation of a tensor that is computed from sizes alone, such as `torch.arange(W)`.

    It comes out at the pre-train network's size by itself; `dims` are fixed axes of its lengths in
    the target.
    """


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
    `"pool"` the padding of a max pool, behind the map also one that completes a last window
    (`ceil_mode`), `"none"` nothing. `site` is the weight of a convolution, `position` the spatial
    axis within it. `fits` says that the kernel may not be longer than the map, even where that is
    padded.
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
    fits: bool = False


@dataclass(frozen=True, eq=False)
class Refit:
    """The axis is laid anew over the same extent of the image: adaptive pools, interpolation.

    `scale` is the ratio of lengths out / source, or `None` where the layer names the output length
    (`AdaptiveAvgPool2d(7)`, `interpolate(size=56)`), which then scales like a feature map. A
    `pool` that does not lengthen the target's axis may not lengthen the pre-train network's.
    """

    node: fx.Node
    source: Axis
    out: Axis
    scale: float | None
    pool: bool = False


@dataclass(frozen=True)
class Operand:
    """One side of a join: `axis` is dimension `dim` of the tensor that `node` computes.

    `dim` is `None` where the axis is flattened together with others and cannot be padded.
    """

    node: fx.Node
    dim: int | None
    axis: Axis


@dataclass(frozen=True, eq=False)
class Join:
    """Axes that meet in one tensor (a sum, a concatenation) and must have one length."""

    node: fx.Node
    out: Axis
    operands: tuple[Operand, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """A view takes an axis apart, the last part running fastest.

    `given[i]` says that the model names the length of part `i` instead of computing it.
    """

    node: fx.Node
    source: Axis
    parts: tuple[Axis, ...]
    given: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Merge:
    """A view puts parts together again that are not the same any more; `source` was split."""

    node: fx.Node
    parts: tuple[Axis, ...]
    out: Axis
    source: Axis


@dataclass(frozen=True, eq=False)
class Flattening:
    """The pixels of a map are taken as one row."""

    node: fx.Node
    parts: tuple[Axis, ...]
    out: Row


Event = Window | Refit | Join | Split | Merge | Flattening


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
class KernelEntry:
    """A parameter or buffer that a convolution's weight is computed from; `dims` hold its axes.

    `kind` is what its `StateMap` will be.
    """

    key: str
    dims: Dims
    kind: Literal["kernel", "direction", "feature"]


@dataclass(frozen=True)
class ComputedWeight:
    """How the weight of a convolution is computed from the state.

    `axes` are the axes of the kernel, `None` where it has one tap. The weight is homogeneous of
    `degree` in the entries of kind `"kernel"`, and of the power `taps` in the number of taps, as
    `passes/weight_amplitude.py` explains; `gain` is a parameter that multiplies all of it, laid out
    as `gain_view` over the dimensions of the first entry. `centred` says that it stands for the
    spread of the kernel and not for its norm.
    """

    entries: tuple[KernelEntry, ...]
    axes: tuple[Axis | None, ...]
    degree: float
    taps: float
    gain: str | None = None
    gain_view: tuple[int, ...] = ()
    centred: bool = False

    @property
    def power(self) -> float:
        """The pre-train network multiplies the weight by `product(k / k')` to this power."""
        return self.taps + (0.5 if self.gain else 1 - self.degree)


@dataclass(frozen=True)
class ConvSite:
    """One call of a convolution found in the graph.

    `inputs` and `outputs` are the spatial dimensions before and behind it, `scales[i]` says whether
    the kernel runs over a spatial axis along axis `i`, and `tied[i]` is the source axis where the
    kernel covers the whole map along axis `i` (a convolution used as a fully connected layer): the
    kernel then follows the map, not Table 1. `computed` is given where the weight is no parameter,
    `obstacle` where it is computed in a way that keeps the compiler from resizing it.
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
    computed: ComputedWeight | None = None
    obstacle: UnsupportedModelError | None = None


@dataclass(frozen=True)
class LinearSite:
    """One call of a linear layer; `dim` and `out` are what its input and output features are."""

    node: fx.Node
    name: str
    weight: str
    dim: Dim
    out: Dim
    rows: Dims
    """The dimensions over which the layer is applied, for counting its multiplications."""


@dataclass(frozen=True)
class FeatureEntry:
    """A parameter or buffer whose dimensions are those of a feature map."""

    key: str
    dims: Dims


@dataclass(frozen=True)
class Scaling:
    """`node` computes a sum over pixels: times `product(n / n') ** power`, it keeps its amplitude.

    `n` and `n'` are the lengths of `axes` in the target and in the pre-train network.
    """

    node: fx.Node
    axes: Dim
    power: float


@dataclass(frozen=True)
class Statistics:
    """`node` normalises by statistics of one sample's `per_pixel` values at each pixel of `dims`.

    A single value has no spread: torch refuses it, in train mode.
    """

    node: fx.Node
    dims: Dims
    per_pixel: int = 1


@dataclass(frozen=True)
class Resampling:
    """A constant of the target, `operand`, meets a feature map at `node` and is resized for it.

    `dims` says what each of its dimensions is made of there.
    """

    node: fx.Node
    operand: fx.Node
    dims: Dims
    nearest: bool


@dataclass(frozen=True)
class Lookup:
    """`node` reads a table at places that the tensors in `cone` compute from sizes."""

    node: fx.Node
    cone: tuple[fx.Node, ...]


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
    resamplings: tuple[Resampling, ...]
    lookups: tuple[Lookup, ...]
    reads: tuple[RelativeRead, ...]
    statistics: tuple[Statistics, ...]
    scalings: tuple[Scaling, ...]
    outputs: frozenset[Axis]
    """The spatial axes of what the network returns."""
