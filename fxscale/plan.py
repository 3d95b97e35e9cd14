"""`ScalePlan`: everything the compiler decided, complete before a tensor is touched.

Sizes are tuples with one entry per spatial axis, `(L,)`, `(H, W)` or `(D, H, W)`. A padding is one
`(before, after)` pair per axis; a negative entry is a crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fxscale.cost import Bounds, conv_macs, eq4_bounds, relative_scale, scale_product
from fxscale.errors import PlanMismatchError

if TYPE_CHECKING:
    from rich.console import RenderableType

Size = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]

PLAN_VERSION = 1

Kind = Literal["copy", "kernel", "interface", "feature", "direction", "gain", "unflattened"]


@dataclass(frozen=True)
class StateMap:
    """How one entry of the pre-train network's state becomes the target's.

    `kind` is one of

    1. `"copy"`: the entry is the target's, unchanged;
    2. `"kernel"`: a convolution kernel, resized over its spatial axes (Eq. 5);
    3. `"interface"`: the weight of a fully connected interface, viewed as `(n_out, C, H', W')`,
       resized over the spatial axes, flattened again (section 3.3.2);
    4. `"feature"`: a parameter or buffer laid out over a feature map (position embedding, affine
       weight of a `LayerNorm([C, H, W])`): resized, amplitude untouched;
    5. `"direction"`: a unit vector over a kernel (the singular vector of a spectral norm): resized
       as the kernel is, then scaled to length one;
    6. `"gain"`: the amplitude of a kernel that its own network normalises (`weight_g` of a weight
       norm): multiplied by what the norm of the kernel `of` grows by when that is resized, taken
       over the dimensions in which the view has length one; of its spread, if `centred`;
    7. `"unflattened"`: the weight of a layer that makes a feature map of a vector, one number a
       pixel: of a linear layer, viewed as `(C, H', W', n_in)`, or of a transposed convolution over
       one pixel. Resized over the spatial axes, amplitude untouched.

    `pretrain_view` and `target_view` have equal rank; the axes in which they differ are resized.
    Where `parts` are given, they lie one behind the other along axis `parts_axis` of the views (a
    class token and the pixels of a map, several flattened maps before one linear layer), and each
    is mapped on its own.
    """

    key: str
    kind: Kind
    pretrain_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    pretrain_view: tuple[int, ...]
    target_view: tuple[int, ...]
    of: str | None = None
    centred: bool = False
    parts: tuple[StateMap, ...] = ()
    parts_axis: int = 0

    @property
    def gain(self) -> float:
        """Amplitude factor `product(k' / k)`, so that the sum over more taps stays the same."""
        if self.kind not in ("kernel", "interface"):
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
    """One convolution of the target and what it becomes in the pre-train network.

    MACs are exact multiply-accumulates per sample, summed over the calls (`fxscale.cost`).
    """

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
    transposed: bool = False

    @property
    def s(self) -> tuple[float, ...]:
        """The relative resize factor `k / k'` of Table 1, per axis."""
        return relative_scale(self.kernel_size, self.pretrain_kernel_size)

    @property
    def s2(self) -> float:
        """Table 1's `s^2` for any number of axes: `product(k / k')`."""
        return scale_product(self.kernel_size, self.pretrain_kernel_size)

    @property
    def s4(self) -> float:
        """The square of `s2`."""
        return self.s2**2

    @property
    def target_macs(self) -> int:
        """MACs in the target network."""
        return self._macs(self.kernel_size, pretrain_maps=False)

    @property
    def pretrain_macs(self) -> int:
        """MACs in the pre-train network."""
        return self._macs(self.pretrain_kernel_size, pretrain_maps=True)

    def resized_macs(self, ratios: tuple[float, ...]) -> int:
        """MACs of the target's kernel on feature maps that shrink by `ratios`, one per axis.

        Maps that have one size in both networks (after global pooling) keep it.
        """
        total = 0
        for call in self.calls:
            if self.transposed:
                large, small = call.target_input, call.pretrain_input
            else:
                large, small = call.target_output, call.pretrain_output
            if large != small and len(large) == len(ratios):
                small = tuple(max(1, round(n * r)) for n, r in zip(large, ratios, strict=True))
            total += conv_macs(
                self.in_channels, self.out_channels, self.kernel_size, small, groups=self.groups
            )
        return total

    @property
    def mac_ratio(self) -> float:
        """`target_macs / pretrain_macs`."""
        return _ratio(self.target_macs, self.pretrain_macs)

    @property
    def activations(self) -> tuple[int, int]:
        """Elements of its outputs per sample, over all calls, target and pre-train."""
        target = sum(prod(call.target_output) for call in self.calls)
        pretrain = sum(prod(call.pretrain_output) for call in self.calls)
        return self.out_channels * target, self.out_channels * pretrain

    @property
    def eq4_bounds(self) -> Bounds:
        """Where Eq. 4 expects `pretrain_macs`: above `M / s^4`, at most `M / s^2`.

        Eq. 4 supposes that the map shrinks by the kernel's own factor; real maps shrink by the
        input's. A 1x1 convolution, with `s = 1`, therefore falls below.
        """
        return eq4_bounds(self.target_macs, self.s2)

    def _macs(self, kernel_size: Size, *, pretrain_maps: bool) -> int:
        total = 0
        for call in self.calls:
            maps = (
                (call.pretrain_input, call.pretrain_output)
                if pretrain_maps
                else (call.target_input, call.target_output)
            )
            # A transposed convolution works once per input pixel, any other once per output pixel.
            size = maps[0] if self.transposed else maps[1]
            total += conv_macs(
                self.in_channels, self.out_channels, kernel_size, size, groups=self.groups
            )
        return total


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

    @property
    def max_drift(self) -> float:
        """The largest absolute drift over the axes, in pixels of the pre-train map."""
        return max((abs(d) for d in self.drift), default=0.0)


@dataclass(frozen=True)
class PoolPlan:
    """A max pool whose padding changes; what it has more behind the map is `ceil_mode`."""

    node: str
    module: str
    target_padding: Padding
    pretrain_padding: Padding


@dataclass(frozen=True)
class ModuleVersion:
    """The version that a module's class gives to its state, which `load_state_dict` asks for."""

    path: str
    version: int


@dataclass(frozen=True)
class ScalePlan:
    """What `downscale` decided for one target network and one pre-train input size.

    `str(plan)` is a table in plain text; `rich` prints the same in colour. All counts are
    multiply-accumulates (MACs) per sample in the forward pass; a training step costs about three
    times as much in either network, so that ratios are the same.
    """

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
    module_versions: tuple[ModuleVersion, ...] = ()
    """Of modules whose class gives its state a version of its own."""
    pools: tuple[PoolPlan, ...] = ()
    version: int = PLAN_VERSION

    @property
    def conv_macs(self) -> tuple[int, int]:
        """MACs of all convolutions, target and pre-train."""
        target = sum(conv.target_macs for conv in self.convs)
        return target, sum(conv.pretrain_macs for conv in self.convs)

    @property
    def eq4_bounds(self) -> Bounds:
        """Where Eq. 4 expects the pre-train network's `conv_macs`: the sums of all bounds."""
        bounds = [conv.eq4_bounds for conv in self.convs]
        return Bounds(low=sum(b.low for b in bounds), high=sum(b.high for b in bounds))

    @property
    def target_macs(self) -> int:
        """MACs of all convolutions and linear layers of the target network."""
        return self.conv_macs[0] + self.dense_macs[0]

    @property
    def pretrain_macs(self) -> int:
        """MACs of all convolutions and linear layers of the pre-train network."""
        return self.conv_macs[1] + self.dense_macs[1]

    @property
    def progressive_resizing_macs(self) -> int:
        """MACs of the unchanged network on images of the pre-train size: progressive resizing.

        An estimate: every feature map is taken to shrink by the input's ratio, which is exact for
        networks whose paddings keep the size. Linear layers are the pre-train network's, for the
        unchanged network's own may not accept such an input at all.
        """
        sizes = zip(self.pretrain_size, self.target_size, strict=True)
        ratios = tuple(small / large for small, large in sizes)
        return sum(conv.resized_macs(ratios) for conv in self.convs) + self.dense_macs[1]

    @property
    def mac_ratio(self) -> float:
        """`target_macs / pretrain_macs`: how many times less arithmetic the pre-train network does.

        Not a measured speed-up. Time also goes to memory traffic, normalisation and data loading,
        and small kernels use hardware less well, so that the measured speed-up is usually smaller.
        """
        return _ratio(self.target_macs, self.pretrain_macs)

    @property
    def activations(self) -> tuple[int, int]:
        """Elements of the outputs of all convolutions per sample, target and pre-train.

        What a step moves through memory goes with them (Radosavovic et al., Designing Network
        Design Spaces, 2020, section 4). Where that takes the time, as on GPUs in half precision,
        their ratio is nearer to the speed-up than that of the MACs.
        """
        counts = [conv.activations for conv in self.convs]
        return sum(target for target, _ in counts), sum(pretrain for _, pretrain in counts)

    @property
    def activation_ratio(self) -> float:
        """Of the target's activations to the pre-train network's."""
        return _ratio(*self.activations)

    @property
    def predicted_speed_up(self) -> float:
        """The speed-up that arithmetic alone predicts: `mac_ratio`, under the paper's name."""
        return self.mac_ratio

    @property
    def most_drifted(self) -> FeatureMap | None:
        """The first feature map with the largest drift; `None` without feature maps."""
        return max(self.feature_maps, key=lambda m: m.max_drift, default=None)

    @property
    def max_drift(self) -> float:
        """The largest absolute drift over all feature maps and axes, in pixels of its own map."""
        worst = self.most_drifted
        return worst.max_drift if worst else 0.0

    def conv(self, name: str) -> ConvPlan:
        """The convolution of that name, such as `"layer1.0.conv2"`.

        Raises `PlanMismatchError` where the plan has none, with the nearest name.
        """
        by_name = {conv.name: conv for conv in self.convs}
        if name in by_name:
            return by_name[name]
        near = get_close_matches(name, by_name, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {len(by_name)} convolutions"
        raise PlanMismatchError(f"the plan of {self.model} has no convolution {name!r}; {hint}")

    def to_json(self) -> str:
        """The plan as a JSON document that `from_json` reads back to an equal plan."""
        # Imported here, as everything below: the readers and writers of plans import the plan.
        from fxscale.plan_json import plan_to_json

        return plan_to_json(self)

    @staticmethod
    def from_json(text: str) -> ScalePlan:
        """The plan in `text`.

        Raises `PlanMismatchError` for anything that `to_json` could not have written, with the
        place in the document.
        """
        from fxscale.plan_json import plan_from_json

        return plan_from_json(text)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; the file appears whole or not at all."""
        from fxscale.files import written_whole

        with written_whole(path) as partial:
            partial.write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> ScalePlan:
        """Read a plan that `save` wrote. Raises `PlanMismatchError` where it is not one."""
        from fxscale.plan_json import plan_from_bytes

        return plan_from_bytes(Path(path).read_bytes(), source=str(path))

    def __str__(self) -> str:
        from fxscale.plan_table import plan_as_text

        return plan_as_text(self)

    def __rich__(self) -> RenderableType:
        from fxscale.plan_table import render_plan

        return render_plan(self)


def _ratio(target: int, pretrain: int) -> float:
    return target / pretrain if pretrain else 1.0
