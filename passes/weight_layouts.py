"""Where the axes of a kernel lie in the parameters that it is computed from.

A weight that is computed in the graph (weight standardisation, weight norm, masks, sums of kernels,
kernels mixed by the input) has the dimensions `(out) (in) (kernel axes)`. From there the layout is
followed backwards, against the flow, through whatever regroups, broadcasts or keeps dimensions, to
the parameters and buffers at the start. The walk forward of the annotate pass then begins with
these layouts and follows the kernel axes back to the convolution, operator by operator, with the
same handlers as everything else; so nothing here needs to be proven, only to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxscale.passes.axes import Axis, Dim, Dims
from fxscale.passes.in_place import changes_in_place, sharing
from fxscale.passes.ops import (
    conv,
    elementwise,
    join,
    normalise,
    product,
    reshape,
    slicing,
    weight_norm,
)
from fxscale.passes.ops.registry import Call, Handler, lookup
from fxscale.passes.origins import holds_tensor
from fxscale.passes.proxies import VALUE
from fxscale.passes.trace import TracedNetwork


@dataclass(frozen=True)
class WeightLayouts:
    """What was found: layouts by the key of the state, the rest by the call of the convolution.

    `sources` are the nodes that read the state, `cones` the names of all nodes that were passed or
    that compute, from no image, what a weight is made of.
    `pads` are the nodes that pad a kernel, with the dimensions of their result. `filters` are the
    convolutions whose weight is computed from no parameter: it stays as it is. `written` are the
    entries of the state that `forward` writes into.
    """

    layouts: dict[str, Dims]
    axes: dict[fx.Node, tuple[Axis | None, ...]]
    sources: dict[fx.Node, tuple[fx.Node, ...]]
    cones: dict[fx.Node, frozenset[str]]
    pads: dict[fx.Node, Dims]
    filters: set[fx.Node] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    def passed_by(self, name: str | None) -> list[fx.Node]:
        """The convolutions whose weight comes by this node, and those that share its kernel."""
        calls = [call for call, names in self.cones.items() if name in names]
        kernels = {key for call in calls for key in self._kernels(call)}
        sharing = (c for c in self.cones if not kernels.isdisjoint(self._kernels(c)))
        return list(dict.fromkeys([*calls, *sharing]))

    def _kernels(self, call: fx.Node) -> set[str]:
        """The entries of the state that hold the kernel of a convolution."""
        keys = {str(source.target) for source in self.sources[call]}
        return {k for k in keys if any(axis.kernel for dim in self.layouts[k] for axis in dim)}


def lay_out_weights(network: TracedNetwork, skip: Collection[fx.Node] = ()) -> WeightLayouts:
    """The layouts of all computed weights, but for those of the convolutions in `skip`."""
    found = WeightLayouts({}, {}, {}, {}, {})
    parameters = {name for name, _ in network.model.named_parameters(remove_duplicate=False)}
    of_images: set[fx.Node] = set()
    for node in network.graph.nodes:
        if node.op == "placeholder" or not of_images.isdisjoint(node.all_input_nodes):
            of_images.add(node)
        if changes_in_place(node) and node.args and isinstance(node.args[0], fx.Node):
            *_, made = sharing(node.args[0])
            if made.op == "get_attr":
                found.written.add(str(made.target))
        weight = conv.weight_of(node)
        if weight is None or weight.op == "get_attr" or node in skip:
            continue
        if _is_filter(weight, parameters):
            found.filters.add(node)
        else:
            _Walk(network, node, weight).merge_into(found, of_images)
    return found


def _is_filter(weight: fx.Node, parameters: Collection[str]) -> bool:
    """Whether a weight is computed from no parameter and no image: a fixed filter (a blur pool)."""
    seen, pending = {weight}, [weight]
    while pending:
        source = pending.pop()
        if source.op == "placeholder" or str(source.target) in parameters:
            return False
        new = [n for n in source.all_input_nodes if n not in seen and holds_tensor(n)]
        seen.update(new)
        pending += new
    return True


class _Walk:
    """From one convolution's weight to the state."""

    def __init__(self, network: TracedNetwork, convolution: fx.Node, weight: fx.Node) -> None:
        self.network = network
        self.convolution = convolution
        shape = tuple(weight.meta[VALUE].shape)
        self.axes = tuple(Axis(k, spatial=True, kernel=True) if k > 1 else None for k in shape[2:])
        self.passed: dict[fx.Node, Dims] = {}
        pending: list[tuple[fx.Node, Dims]] = [
            (weight, (*map(_fixed, shape[:2]), *((a,) if a else () for a in self.axes)))
        ]
        while pending:
            node, dims = pending.pop()
            if node not in self.passed:
                self.passed[node] = dims
                pending += self._before(node, dims)

    def _before(self, node: fx.Node, dims: Dims) -> Iterator[tuple[fx.Node, Dims]]:
        """The operands that the kernel's axes come from, each with its dimensions."""
        module = None
        target: Any = node.target
        if node.op == "call_module":
            module = self.network.model.get_submodule(str(node.target))
            target = type(module)
        elif node.op == "call_method":
            target = f".{target}"
        registration = lookup(target)
        if registration is None or registration.handler not in _RULES:
            return
        # Handlers' arguments are read without an annotator: none has run yet.
        call = Call(node, registration.params, None, module)  # type: ignore[arg-type]  # no annotator is asked
        for operand, laid_out in _RULES[registration.handler](call, dims):
            if isinstance(operand, fx.Node) and laid_out is not None:
                lengths = tuple(_length(dim) for dim in laid_out)
                if lengths == tuple(operand.meta[VALUE].shape):
                    yield operand, laid_out

    def merge_into(self, found: WeightLayouts, of_images: Collection[fx.Node]) -> None:
        """Add what this walk found; where it meets an earlier one, their kernel axes are one.

        `of_images` are the nodes that are computed from the network's inputs.
        """
        sources = tuple(node for node in self.passed if node.op == "get_attr")
        same: dict[Axis, Axis] = {}
        for node in sources:
            known = found.layouts.get(str(node.target))
            same |= _matched(self.passed[node], known) if known is not None else {}
        for node in sources:
            dims = tuple(tuple(same.get(a, a) for a in dim) for dim in self.passed[node])
            found.layouts.setdefault(str(node.target), dims)
        for node, dims in self.passed.items():
            if node.target in (F.pad, torch._C._nn.pad):
                found.pads[node] = tuple(tuple(same.get(a, a) for a in dim) for dim in dims)
        call = self.convolution
        found.axes[call] = tuple(same.get(axis, axis) if axis else None for axis in self.axes)
        found.sources[call] = sources
        found.cones[call] = frozenset(node.name for node in self._cone(of_images))

    def _cone(self, of_images: Collection[fx.Node]) -> set[fx.Node]:
        found, pending = set(self.passed), list(self.passed)
        while pending:
            nodes = pending.pop().all_input_nodes
            new = [node for node in nodes if node not in found and node not in of_images]
            found.update(new)
            pending += new
        return found


def _matched(dims: Dims, known: Dims) -> dict[Axis, Axis]:
    ours, theirs = ([a for dim in each for a in dim if a.kernel] for each in (dims, known))
    if [a.target for a in ours] != [a.target for a in theirs]:
        return {}  # the walk forward will find that they disagree
    return dict(zip(ours, theirs, strict=True))


def _fixed(length: int) -> Dim:
    return () if length == 1 else (Axis(int(length), spatial=False),)


def _length(dim: Dim) -> int:
    return int(torch.Size([axis.target for axis in dim]).numel())


# One rule per handler: from the result's dimensions to the operands'.

Operands = Iterator[tuple[Any, Dims | None]]


def _same(call: Call, dims: Dims) -> Operands:
    yield call.node.args[0] if call.node.args else call.node.kwargs.get("input"), dims


def _broadcast(call: Call, dims: Dims) -> Operands:
    for operand in call.node.all_input_nodes:
        value = operand.meta[VALUE]
        if isinstance(value, torch.Tensor) and value.ndim <= len(dims):
            aligned = dims[len(dims) - value.ndim :]
            pairs = zip(value.shape, aligned, strict=True)
            yield operand, tuple(() if length == 1 else dim for length, dim in pairs)


def _regroup(call: Call, dims: Dims) -> Operands:
    source = call.raw("input")
    axes = [axis for dim in dims for axis in dim]
    if not isinstance(source, fx.Node):
        return
    out: list[Dim] = []
    for length in source.meta[VALUE].shape:
        group: list[Axis] = []
        room = int(length)
        while room > 1 and axes:
            axis = axes.pop(0)
            if room % axis.target == 0:
                group.append(axis)
                room //= axis.target
            elif not axis.spatial and axis.target % room == 0:
                group.append(replace(axis, target=room))
                axes.insert(0, replace(axis, target=axis.target // room))
                room = 1
            else:
                return
        out.append(tuple(group))
    yield source, tuple(out)


def _permute(call: Call, dims: Dims) -> Operands:
    order: Any = call.value("dims")
    places = {index % len(dims): dim for index, dim in zip(order, dims, strict=True)}
    yield call.raw("input"), tuple(places[index] for index in range(len(dims)))


def _transpose(call: Call, dims: Dims) -> Operands:
    swapped = list(dims)
    a, b = call.value("dim0"), call.value("dim1")
    swapped[a], swapped[b] = swapped[b], swapped[a]
    yield call.raw("input"), tuple(swapped)


def _sliced(call: Call, dims: Dims) -> Operands:
    """Some of the channels, by slices."""
    index = call.raw("index")
    items = index if isinstance(index, tuple) else (index,)
    if all(isinstance(item, slice | EllipsisType) for item in items):
        yield _of_more_channels(call.raw("input"), dims)


def _taken(call: Call, dims: Dims) -> Operands:
    """The same, by their numbers."""
    yield _of_more_channels(call.raw("input"), dims)


def _joined(call: Call, dims: Dims) -> Operands:
    """Kernels one behind the other."""
    for operand in call.node.all_input_nodes:
        yield _of_more_channels(operand, dims)


def _of_more_channels(operand: Any, dims: Dims) -> tuple[Any, Dims | None]:
    """A kernel that has others of the channels, and the same taps."""
    value = operand.meta[VALUE] if isinstance(operand, fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.ndim != len(dims):
        return operand, None
    pairs = list(zip(dims, value.shape, strict=True))
    if any(_length(dim) != length and any(axis.kernel for axis in dim) for dim, length in pairs):
        return operand, None
    return operand, tuple(
        dim if _length(dim) == length else _fixed(length) for dim, length in pairs
    )


def _padded(call: Call, dims: Dims) -> Operands:
    """A smaller kernel, padded: it has axes of its own, or none if it has one tap."""
    source = call.raw("input")
    if isinstance(source, fx.Node):
        pairs = zip(source.meta[VALUE].shape, dims, strict=True)
        yield source, tuple(dim if length == _length(dim) else () for length, dim in pairs)


def _product(call: Call, dims: Dims) -> Operands:
    """Kernels mixed by coefficients: rows of a matrix, one kernel each."""
    right = call.raw("other")
    if isinstance(right, fx.Node):
        yield right, (*dims[:-2], _fixed(right.meta[VALUE].shape[-2]), dims[-1])


_RULES: dict[Handler, Callable[[Call, Dims], Operands]] = {
    elementwise.keep_shape: _same,
    elementwise.identity: _same,
    elementwise.normalisation_function: _same,
    normalise.normalise: _same,
    join.arithmetic: _broadcast,
    join.where: _broadcast,
    reshape.flatten: _regroup,
    reshape.view: _regroup,
    reshape.reshape: _regroup,
    reshape.view_as: _regroup,
    reshape.unsqueeze: _regroup,
    reshape.squeeze: _regroup,
    reshape.permute: _permute,
    reshape.transpose: _transpose,
    slicing.getitem: _sliced,
    slicing.take: _taken,
    slicing.pad: _padded,
    join.concatenate: _joined,
    product.matrix_product: _product,
    weight_norm.weight_norm: _broadcast,
    weight_norm.spectral_norm: _same,
}
