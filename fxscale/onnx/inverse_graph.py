"""The operators of the ONNX inverse: what each kind of entry becomes in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

from fxscale.errors import OnnxError
from fxscale.plan import StateMap
from fxscale.resample import Interpolation

if TYPE_CHECKING:
    import onnx

_MODE = {"bilinear": "linear", "bicubic": "cubic"}
_SHORTEST = 1e-12  # the least length by which torch.nn.functional.normalize divides


def add_entry(
    graph: onnx.GraphProto, state_map: StateMap, prefix: str, interpolation: Interpolation
) -> str:
    """Operators that map the value called `prefix`; their names begin with it. Returns the last.

    Of every kind but `"gain"`. **Raises:** `OnnxError` for an axis that shrinks.
    """
    if state_map.parts:
        return _add_parts(graph, state_map, prefix, interpolation)
    chain = _Chain(graph, prefix)
    # Cubic overshoot could turn a running variance negative.
    mode = "linear" if state_map.kind == "feature" else _MODE[interpolation]
    lengths = list(state_map.pretrain_view)
    for axis, n_out in enumerate(state_map.target_view):
        n_in = lengths[axis]
        if n_out < n_in:
            raise OnnxError(
                f"{state_map.key!r} shrinks from {n_in} to {n_out} along axis {axis} of its view"
            )
        if n_out != n_in:
            chain.resize(axis, lengths, n_out, mode)
            lengths[axis] = n_out
    if state_map.kind in ("kernel", "interface"):
        chain.times(prod(state_map.pretrain_view) / prod(state_map.target_view))
    chain.reshape("target", state_map.target_shape)
    if state_map.kind == "direction":
        chain.to_length_one()
    return chain.value


def add_gain(
    graph: onnx.GraphProto, gain: StateMap, kernel: StateMap, small: str, large: str
) -> str:
    """Operators that map a gain, of which `small` and `large` are the kernel before and after.

    The gain grows as the kernel's norm does; where the kernel is zero, as a constant one's does.
    """
    before = _add_norm(graph, gain, small, f"{gain.key}/before", kernel.pretrain_view)
    after = _add_norm(graph, gain, large, f"{gain.key}/after", kernel.target_view)
    smaller = _Chain(graph, before, f"{gain.key}/smaller")
    smaller.apply("Min", after, name="norm")
    known = smaller.apply("Greater", smaller.constant("zero", 0.0), name="known")
    growth = _Chain(graph, after, f"{gain.key}/growth")
    growth.apply("Div", before, name="ratio")
    usual = growth.constant("usual", sqrt(prod(kernel.pretrain_view) / prod(kernel.target_view)))
    growth.apply("Where", usual, name="chosen", condition=known)
    chain = _Chain(graph, gain.key)
    chain.reshape("view", gain.target_view)
    chain.apply("Mul", growth.value, name="scaled")
    chain.reshape("target", gain.target_shape)
    return chain.value


def _add_parts(
    graph: onnx.GraphProto, state_map: StateMap, prefix: str, interpolation: Interpolation
) -> str:
    from onnx import helper

    axis = state_map.parts_axis
    chain = _Chain(graph, prefix)
    chain.reshape("parts", state_map.pretrain_view)
    names = [f"{prefix}/part_{i}" for i in range(len(state_map.parts))]
    sizes = chain.integers("part_sizes", [p.pretrain_shape[axis] for p in state_map.parts])
    graph.node.append(helper.make_node("Split", [chain.value, sizes], names, axis=axis))
    mapped = [
        add_entry(graph, part, name, interpolation)
        for name, part in zip(names, state_map.parts, strict=True)
    ]
    joined = _Chain(graph, mapped[0], prefix)
    joined.apply("Concat", *mapped[1:], name="joined", axis=axis)
    joined.reshape("target", state_map.target_shape)
    return joined.value


def _add_norm(
    graph: onnx.GraphProto, gain: StateMap, kernel: str, prefix: str, view: tuple[int, ...]
) -> str:
    """The norms of a kernel, one for each number of its gain; of its spread, if that is centred."""
    chain = _Chain(graph, kernel, prefix)
    chain.reshape("view", view)
    over = [axis for axis, length in enumerate(gain.target_view) if length == 1]
    axes = chain.integers("axes", over)
    if gain.centred:
        mean = _Chain(graph, chain.value, prefix).apply("ReduceMean", axes, name="mean")
        chain.apply("Sub", mean, name="centred")
    return chain.apply("ReduceL2", axes, name="norm")


class _Chain:
    """Operators one behind the other; their names begin with `prefix`, by default the value's."""

    def __init__(self, graph: onnx.GraphProto, value: str, prefix: str | None = None) -> None:
        self.graph = graph
        self.value = value
        self.prefix = value if prefix is None else prefix

    def apply(
        self, operator: str, *inputs: str, name: str, condition: str | None = None, **options: Any
    ) -> str:
        """One more operator over the chain's value (and `inputs`, and before it `condition`)."""
        from onnx import helper

        output = f"{self.prefix}/{name}"
        operands = [*([] if condition is None else [condition]), self.value, *inputs]
        self.graph.node.append(
            helper.make_node(operator, operands, [output], name=output, **options)
        )
        self.value = output
        return output

    def constant(self, name: str, number: float) -> str:
        from onnx import TensorProto

        return self._stored(name, TensorProto.FLOAT, [], [number])

    def integers(self, name: str, values: Sequence[int]) -> str:
        from onnx import TensorProto

        return self._stored(name, TensorProto.INT64, [len(values)], list(values))

    def _stored(self, name: str, dtype: int, shape: list[int], values: Sequence[float]) -> str:
        from onnx import helper

        tensor = helper.make_tensor(f"{self.prefix}/{name}", dtype, shape, values)
        self.graph.initializer.append(tensor)
        return str(tensor.name)

    def reshape(self, name: str, shape: Sequence[int]) -> None:
        self.apply("Reshape", self.integers(f"{name}_shape", shape), name=name)

    def resize(self, axis: int, lengths: Sequence[int], n_out: int, mode: str) -> None:
        # Any axis of any rank, seen as the height of images that keep their width: a separable
        # map, one axis at a time, and the one case of Resize that every runtime implements.
        outer, inner = prod(lengths[:axis]), prod(lengths[axis + 1 :])
        self.reshape(f"axis_{axis}", (outer, 1, lengths[axis], inner))
        self.apply(
            "Resize",
            "",
            "",
            self.integers(f"sizes_{axis}", (outer, 1, n_out, inner)),
            name=f"resized_{axis}",
            mode=mode,
            coordinate_transformation_mode="half_pixel",
            cubic_coeff_a=-0.75,
        )

    def times(self, factor: float) -> None:
        self.apply("Mul", self.constant("gain", factor), name="scaled")

    def to_length_one(self) -> None:
        axes = self.integers("first_axis", [0])
        length = _Chain(self.graph, self.value, self.prefix)
        length.apply("ReduceL2", axes, name="length")
        length.apply("Max", self.constant("shortest", _SHORTEST), name="length_or_shortest")
        self.apply("Div", length.value, name="unit")
