"""Pass 2, annotate: give every tensor its axes, and write down how axes come from one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import fx, nn

import fxscale.passes.ops as _handlers  # noqa: F401  # registers the handlers
from fxscale.errors import FxscaleError, UnsupportedModelError, first_line
from fxscale.passes.annotations import (
    carries_size,
    check_shape,
    fixed_annotation,
    fixed_dims,
    fixed_shape,
    is_tensor_annotation,
    spatial_axes,
)
from fxscale.passes.axes import (
    AnnotatedNetwork,
    Annotation,
    Axis,
    ComputedWeight,
    ConvSite,
    Dim,
    Dims,
    Event,
    FeatureEntry,
    Flattening,
    Join,
    KernelEntry,
    LinearSite,
    Lookup,
    Operand,
    Refit,
    Resampling,
    Row,
    SelfSized,
    Shape,
    Statistics,
    Substitution,
    Window,
    target_length,
)
from fxscale.passes.axis_checks import refuse_kernel, refuse_meeting, require_map
from fxscale.passes.concatenations import Concatenations, parts_of
from fxscale.passes.constant_views import with_target_lengths
from fxscale.passes.distances import Distances, annotate_read, refuse_open
from fxscale.passes.laid_constants import Laid, LaidConstants, Place
from fxscale.passes.literals import substitute_literals
from fxscale.passes.lookups import lookup_at
from fxscale.passes.ops.constant import lay_out
from fxscale.passes.ops.registry import Call, describe, lookup
from fxscale.passes.origins import Origin, has_no_order, holds_tensor, origin_of
from fxscale.passes.parts import Finding, KeepLengthError, Parts
from fxscale.passes.proxies import VALUE, tensors_in
from fxscale.passes.refusal import refusal
from fxscale.passes.relative_positions import RelativeRead, relative_reads
from fxscale.passes.shares import Amplitudes
from fxscale.passes.trace import TracedNetwork
from fxscale.passes.unflattened import UnflattenedMaps
from fxscale.passes.weight_amplitude import computed_weight
from fxscale.passes.weight_layouts import WeightLayouts, lay_out_weights
from fxscale.passes.windows import POINTWISE, window_arguments, window_length
from fxscale.passes.writes import refuse_lost_writes


def annotate(network: TracedNetwork) -> AnnotatedNetwork:
    """Walk the graph in order, asking each operator's handler for its result's axes.

    A computed weight in which a handler refuses is left as it is, and the walk begins anew: the
    convolution can then keep its kernel. It begins anew, too, for every time that a part of a split
    axis turns out to be of fixed length, and once the axes are found that constants lie along.
    """
    obstacles: dict[fx.Node, UnsupportedModelError] = {}
    kept: frozenset[Finding] = frozenset()
    laid: dict[Place, Laid] = {}
    reads = relative_reads(network.graph)
    while True:
        layouts = lay_out_weights(network, skip=obstacles)
        walk = Annotator(network, layouts, obstacles, kept, laid, reads)
        try:
            result = walk.run()
        except KeepLengthError as found:
            kept |= found.parts
            continue
        except UnsupportedModelError as error:
            if walk.constants.found:
                laid |= walk.constants.found
                continue
            blocked = layouts.passed_by(error.node)
            if not blocked:
                raise
            obstacles |= dict.fromkeys(blocked, error)
            continue
        if not walk.constants.found:
            refuse_open(walk.open_reads)
            return result
        laid |= walk.constants.found


class Annotator:
    """The state of the walk; handlers create axes and record events through it."""

    def __init__(
        self,
        network: TracedNetwork,
        layouts: WeightLayouts,
        obstacles: Mapping[fx.Node, UnsupportedModelError],
        kept: frozenset[Finding] = frozenset(),
        laid: Mapping[Place, Laid] | None = None,
        reads: Mapping[fx.Node, RelativeRead] | None = None,
    ) -> None:
        self.network = network
        self.layouts = layouts
        self.obstacles = obstacles
        self.annotations: dict[fx.Node, Annotation] = {}
        self.events: list[Event] = []
        self.parts = Parts(kept, self.events)
        self.inputs: list[tuple[Axis, ...]] = []
        self.unflattened = UnflattenedMaps(kept, self.inputs)
        self.convs: list[ConvSite] = []
        self.linears: list[LinearSite] = []
        self.features: dict[str, FeatureEntry] = {}
        self._concatenations = Concatenations()
        self.constants = LaidConstants(laid or {}, self.annotations)
        self.lookups: list[Lookup] = []
        self.reads = reads or {}
        self.open_reads: list[RelativeRead] = []
        self._moving = {step for read in self.reads.values() for step in read.steps}
        self.substitutions: list[Substitution] = []
        self.resamplings: list[Resampling] = []
        self.origins: dict[fx.Node, Origin] = {}
        self.statistics: list[Statistics] = []
        self.amplitudes = Amplitudes()
        self.kernel_entries: dict[fx.Node, KernelEntry] = {}
        model = network.model
        self.parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        self._state = self.parameters | buffers

    def run(self) -> AnnotatedNetwork:
        for node in self.network.graph.nodes:
            origin = origin_of(node, self.origins)
            if origin is Origin.SIZE and holds_tensor(node):
                found = lookup_at(node, self.module_of(node), self.origins)
                if found is not None:
                    self.lookups.append(found)
                    origin = Origin.CONSTANT
            self._current = node
            frozen = with_target_lengths(node, self.origins, self.annotations)
            self.substitutions += frozen
            if frozen:
                origin, self.annotations[node] = Origin.CONSTANT, self._constant(node)
            else:
                self.annotations[node] = self._annotate(node, origin)
            if not holds_tensor(node) and self.annotations[node] is not None:
                origin = Origin.SIZE if carries_size(self.annotations[node]) else Origin.CONSTANT
            self.origins[node] = origin
            check_shape(node, self.annotations[node])
        returned = self.network.returned
        refuse_lost_writes(self, returned)
        replaced = {substitution.node for substitution in self.substitutions}
        nodes = (node for node in self.network.graph.nodes if node not in replaced)
        self.substitutions += list(substitute_literals(nodes, self.annotations, self.events))
        axes = spatial_axes([self.annotations[node] for node in returned])
        return AnnotatedNetwork(
            annotations=self.annotations | self.constants.as_computed(),
            events=tuple(self.events),
            inputs=tuple(self.inputs),
            convs=tuple(self.convs),
            linears=tuple(self.linears),
            features=tuple(self.features.values()),
            substitutions=tuple(self.substitutions),
            scalings=self.amplitudes.settle(self.network.model),
            resamplings=tuple(self.resamplings),
            lookups=tuple(self.lookups),
            reads=tuple(self.reads.values()),
            statistics=tuple(self.statistics),
            outputs=frozenset(axis for axis in axes if not axis.kernel),
        )

    def _annotate(self, node: fx.Node, origin: Origin) -> Annotation:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            dims = self.layouts.layouts.get(str(node.target))
            return Shape(dims) if dims is not None else self._constant(node)
        if origin is not Origin.IMAGE and holds_tensor(node):
            # Computed without a look at an image: no operator in it needs to be known.
            if origin is Origin.SIZE:
                return fixed_annotation(node.meta[VALUE], SelfSized)
            sized = any(carries_size(self.annotations[n]) for n in node.all_input_nodes)
            if not sized and node not in self.layouts.pads:
                return self._constant(node)
        module = self.module_of(node)
        registration = lookup(self.target_of(node))
        if node in self._moving:
            return None  # a step on the way to what is read, which nobody else sees
        try:
            if node in self.reads:
                return annotate_read(self, self.reads[node])
            if registration is None:
                return self._unknown(node, module)
            return registration.handler(Call(node, registration.params, self, module))
        except KeepLengthError:
            raise
        except UnsupportedModelError:
            # What an operator cannot do with a window that scales, it may do with a fixed one.
            inputs = [self.annotations[source] for source in node.all_input_nodes]
            if not self.constants.found:
                self.parts.keep_given(spatial_axes(inputs))
            raise
        except FxscaleError:
            raise
        except Exception as error:  # a handler's own error, said with its node
            assert registration is not None
            raise refusal(
                node,
                f"the handler {registration.handler.__qualname__} of {describe(node, module)} "
                f"failed: {type(error).__name__}: {first_line(error)}",
                remedy="call the operator in its usual form, or register your own handler for the "
                "module that contains it with fxscale.register",
            ) from error

    def _constant(self, node: fx.Node) -> Annotation:
        """A constant of the target, resized where the axes are known that it lies along."""
        annotation = self.constants.annotate(node)
        if carries_size(annotation):
            for user in node.users:
                lay_out(self, user, node, annotation.dims)
        return annotation

    def _unknown(self, node: fx.Node, module: nn.Module | None) -> Annotation:
        """An operator without a handler is safe only where no spatial size reaches it."""
        if isinstance(node.target, type) and is_dataclass(node.target):
            return {name: self.annotation_of(value) for name, value in node.kwargs.items()}
        touched = [a for a in map(self.annotations.get, node.all_input_nodes) if carries_size(a)]
        if not touched:
            return fixed_annotation(node.meta[VALUE])
        if next(tensors_in(node.meta[VALUE]), None) is None and not any(
            map(is_tensor_annotation, touched)
        ):
            return None  # arithmetic on sizes: runs again at the pre-train size, then verified
        raise refusal(
            node,
            f"the operator {describe(node, module)} is not known to the compiler",
            remedy="register a handler for it with fxscale.register, or name the module that "
            "contains it in leaf_modules and register a handler for that",
        )

    def _placeholder(self, node: fx.Node) -> Annotation:
        value = node.meta[VALUE]
        if not isinstance(value, torch.Tensor):
            return None
        name = str(node.target)
        if name in self.network.inputs.values and self.network.inputs.is_image(name):
            axes = tuple(self.axis(n, spatial=True) for n in value.shape[2:])
            self.inputs.append(axes)
            batch = (Axis(value.shape[0], spatial=False, batch=True),)
            return Shape((batch, *fixed_dims(value.shape[1:2]), *((axis,) for axis in axes)))
        return fixed_shape(value)

    # What handlers use.

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        called = node.op == "call_module"
        return self.network.model.get_submodule(str(node.target)) if called else None

    def target_of(self, node: fx.Node) -> Any:
        """Under what the handler of a node is registered."""
        if node.op == "call_module":
            return type(self.module_of(node))
        return f".{node.target}" if node.op == "call_method" else node.target

    def computed_weight(
        self, convolution: fx.Node, weight: fx.Node
    ) -> ComputedWeight | UnsupportedModelError:
        """How a weight is computed, or what kept the compiler from following it."""
        if convolution in self.obstacles:
            return self.obstacles[convolution]
        return computed_weight(self, convolution, weight)

    def sums_over(
        self, node: fx.Node, dim: Dim, read: Iterable[Axis] | None = None, power: float = 1.0
    ) -> None:
        """Record that `node` grows with the pixels of `dim` to this power.

        `read` are the axes of its operands, where those of `dim` have joined them.
        """
        self.amplitudes.sum_over(node, dim, read, power)

    def annotation_of(self, argument: Any) -> Annotation:
        if isinstance(argument, fx.Node):
            return self.annotations[argument]
        if isinstance(argument, tuple | list):
            return [self.annotation_of(item) for item in argument]
        return None

    def is_state(self, node: fx.Node) -> bool:
        """Whether a node reads a parameter or a buffer, not a constant of the trace."""
        return node.op == "get_attr" and str(node.target) in self._state

    def axis(self, target: int, *, spatial: bool) -> Axis:
        return Axis(target, spatial)

    def window(self, **fields: Any) -> Axis:
        """Record a window over an axis and return the axis that comes out of it."""
        source: Axis = fields["source"]
        arguments = window_arguments(fields)
        if all(arguments.get(name, plain) == plain for name, plain in POINTWISE.items()):
            return source
        refuse_kernel(fields["node"], source)
        require_map(fields["node"], source)
        target = window_length(source.target, **arguments)
        out = self.axis(target, spatial=True)
        self.events.append(Window(out=out, **fields))
        self.parts.derive(source, out)
        return out

    def row_window(self, dim: Dim, **fields: Any) -> Row:
        """A window over the pixels of a flattened map, from row to row of it."""
        row = dim[0]
        if not isinstance(row, Row):
            row = Row(target_length(dim), spatial=True)
            self.events.append(Flattening(fields["node"], dim, row))
        out = Row(window_length(row.target, **window_arguments(fields)), spatial=True)
        self.events.append(Window(source=row, out=out, **fields))
        return out

    def refit(
        self,
        node: fx.Node,
        source: Axis,
        target: int,
        scale: float | None,
        *,
        pool: bool = False,
    ) -> Axis:
        refuse_kernel(node, source)
        require_map(node, source)
        out = self.axis(target, spatial=True)
        self.events.append(Refit(node, source, out, scale, pool))
        self.parts.derive(source, out)
        return out

    def join(self, node: fx.Node, operands: Sequence[Operand]) -> Axis:
        """Record that axes meet; the same axis on every side meets nobody."""
        distinct = {operand.axis for operand in operands}
        if len(distinct) == 1:
            return operands[0].axis
        for axis in distinct:
            refuse_meeting(node, axis)
        out = type(operands[0].axis)(operands[0].axis.target, spatial=True)
        self.events.append(Join(node, out, tuple(operands)))
        for operand in operands:
            self.parts.derive(operand.axis, out)
        return out

    def concatenation(self, parts: Sequence[Dim]) -> Dim:
        """The dimension in which these lie one behind the other; equal parts, equal axis."""
        return self._concatenations.of(parts)

    def feature(self, key: str, dims: Dims) -> None:
        """Record that a parameter or buffer is laid out over a feature map."""
        for dim in dims:
            if not all(axis.spatial for axis in dim):  # parts of an axis beside channels
                self.parts.keep(dim)
        for axis in (axis for dim in dims for axis in dim):
            refuse_kernel(self._current, axis)
            if isinstance(axis, Row | Distances):
                require_map(self._current, axis)
        self.features.setdefault(key, FeatureEntry(key, dims))

    def resample(self, node: fx.Node, operand: fx.Node, dims: Dims) -> None:
        """Record that a constant of the target is laid over a feature map."""
        for axis in (axis for dim in dims for part in parts_of(dim) for axis in part):
            refuse_kernel(node, axis)
            if not isinstance(axis, Distances):
                require_map(node, axis)
        nearest = has_no_order(operand, self.network.model, self.origins)
        self.resamplings.append(Resampling(node, operand, dims, nearest))

    def substitute(
        self,
        node: fx.Node,
        value: Any,
        *,
        argument: str | int | tuple[int | str, ...] = (),
        attribute: str | None = None,
    ) -> None:
        self.substitutions.append(Substitution(node, argument, value, attribute))
