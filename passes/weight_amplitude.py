"""How the amplitude of a computed weight follows from its parameters and the number of its taps.

Let `W = F(w)` be the target's weight and `W' = F'(w')` the pre-train network's, let `R` resize a
kernel without changing its amplitude, and `t = product(k / k')`. The target shall have the weight
that the method gives it, `W = R(W') / t` (Eq. 5), and `w = R(w') / t` for every kernel in its
state. For smooth kernels, resizing commutes with all that is followed here but for powers of `t`:

    F(R(w') / t) = t ** (taps - degree) * R(F'(w'))

1. `degree`: `F` is homogeneous of this degree in `w`: 1 for masks, sums and gains of kernels, 0
   where the kernel is normalised.
2. `taps`: 0 for a weight divided by its standard deviation, -1/2 for one divided by its norm, for
   a norm grows with the number of taps and a standard deviation does not.

So the pre-train network multiplies its weight by `t ** (1 - degree + taps)`, and nothing where that
is 1. If a parameter multiplies a normalised weight (a gain), the norm of the weight is the gain's
business: the pre-train network then keeps the norm, as a fresh network's fan-in variance demands,
by `t ** (1/2 + taps)`, and the transition corrects the gain by how the kernel's norm changed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import ComputedWeight, Dims, KernelEntry, Shape
from fxscale.passes.ops import join
from fxscale.passes.ops.registry import Call, lookup
from fxscale.passes.proxies import VALUE
from fxscale.passes.weight_rules import REMEDY, RULES, VIEWS, Amplitude, Gain, name_of

if TYPE_CHECKING:
    from fxscale.passes.annotate import Annotator


def computed_weight(
    annotator: Annotator, convolution: fx.Node, weight: fx.Node
) -> ComputedWeight | UnsupportedModelError:
    """Everything that is to know about the weight of one convolution, which is annotated already.

    **Raises:** `UnsupportedModelError` at the node of the weight's computation that is in the way;
    returns it for a pointwise kernel, which stays as it is in any case.
    """
    axes = annotator.layouts.axes[convolution]
    annotation = annotator.annotations[weight]
    found = annotation.dims[2:] if isinstance(annotation, Shape) else ()
    if found != tuple((axis,) if axis else () for axis in axes):
        raise Reader.at(annotator, weight).refuse(
            "the axes of the kernel cannot be followed from a parameter to here", REMEDY
        )
    reader = Reader(annotator, annotator.layouts.sources[convolution])
    result = reader.amplitude(weight)
    entries = tuple(sorted(reader.entries.values(), key=lambda e: e.kind != "kernel"))
    if not entries or entries[0].kind != "kernel":
        refused = Reader.at(annotator, weight).refuse("no parameter holds the kernel", REMEDY)
        if any(axes):
            raise refused
        return refused
    kernel = [axis for dim in entries[0].dims for axis in dim]
    for gain in sorted(result.gains, key=lambda gain: gain.key):
        if result.degree == 0 and (gain.axis is None or gain.axis in kernel):
            view = tuple(axis.target if axis is gain.axis else 1 for axis in kernel)
            return ComputedWeight(
                entries, axes, result.degree, result.taps, gain.key, view, result.centred
            )
    return ComputedWeight(entries, axes, result.degree, result.taps)


class Reader:
    """Reads amplitudes off the nodes between the state and one convolution."""

    def __init__(self, annotator: Annotator, sources: Collection[fx.Node]) -> None:
        self.annotator = annotator
        self.entries: dict[str, KernelEntry] = {}
        self.known: dict[fx.Node, Amplitude] = {}
        self.derived: set[fx.Node] = set()
        pending = [node for node in sources if self.kernel_axes(node)]
        pending += annotator.layouts.pads
        while pending:
            node = pending.pop()
            if node not in self.derived:
                self.derived.add(node)
                pending += node.users

    @staticmethod
    def at(annotator: Annotator, node: fx.Node) -> Call:
        module = annotator.module_of(node)
        registration = lookup(annotator.target_of(node))
        return Call(node, registration.params if registration else ("input",), annotator, module)

    def kernel_axes(self, node: fx.Node) -> frozenset[Any]:
        annotation = self.annotator.annotations[node]
        dims = annotation.dims if isinstance(annotation, Shape) else ()
        return frozenset(axis for dim in dims for axis in dim if axis.kernel)

    def amplitude(self, argument: Any) -> Amplitude:
        if not isinstance(argument, fx.Node):
            return Amplitude()
        if argument not in self.known:
            self.known[argument] = self._read(argument)
        return self.known[argument]

    def _read(self, node: fx.Node) -> Amplitude:
        if node not in self.derived:
            return Amplitude()
        if node.op == "get_attr":
            return self._state(node)
        if node in self.annotator.kernel_entries:
            entry = self.annotator.kernel_entries[node]
            self.entries[entry.key] = entry
        call = self.at(self.annotator, node)
        registration = lookup(self.annotator.target_of(node))
        rule = RULES.get(registration.handler) if registration else None
        if rule is None:
            raise call.refuse("nothing is known of what this does to a kernel's amplitude", REMEDY)
        return rule(self, call)

    def _state(self, node: fx.Node) -> Amplitude:
        key = str(node.target)
        dims = self.annotator.annotations[node].dims
        if key in self.annotator.parameters:
            self.entries[key] = KernelEntry(key, dims, "kernel")
            return Amplitude(degree=1)
        if not self.annotator.is_state(node):
            raise self.at(self.annotator, node).refuse(
                "a constant of the code belongs to one kernel size", REMEDY
            )
        buffer = self.annotator.network.model.get_buffer(key)
        if buffer.is_meta or not _even(buffer, dims):
            raise self.at(self.annotator, node).refuse(
                f"the buffer {key!r} differs from tap to tap and belongs to one kernel size", REMEDY
            )
        self.entries[key] = KernelEntry(key, dims, "feature")
        return Amplitude()

    def gains_over(self, call: Call, factor: str, kernel: str) -> frozenset[Gain]:
        """The gains that one operand of a product is for the other one, of which it knows axes."""
        over = call.annotation(kernel)
        if isinstance(over, Shape) and call.raw(kernel) in self.derived:
            return self.gains(call.raw(factor), over.dims)
        return frozenset()

    def gains(self, argument: Any, dims: Dims) -> frozenset[Gain]:
        """The parameter that `argument` is, up to shape and constant factors, over `dims`."""
        if not isinstance(argument, fx.Node) or argument in self.derived:
            return frozenset()
        shape = tuple(argument.meta[VALUE].shape)
        if len(shape) > len(dims):
            return frozenset()
        aligned = zip(shape, dims[len(dims) - len(shape) :], strict=True)
        over = [axis for length, dim in aligned if length > 1 for axis in dim]
        node = argument
        while node.op != "get_attr":
            registration = lookup(self.annotator.target_of(node))
            handler = registration.handler if registration else None
            nodes = node.all_input_nodes
            scaled = (
                handler is join.arithmetic and name_of(node) in ("mul", "div") and len(nodes) == 1
            )
            if not (handler in VIEWS or scaled) or not isinstance(node.args[0], fx.Node):
                return frozenset()
            node = node.args[0]
        key = str(node.target)
        if key not in self.annotator.parameters or len(over) > 1:
            return frozenset()
        return frozenset({Gain(key, over[0] if over else None)})


def _even(mask: torch.Tensor, dims: Dims) -> bool:
    """Whether a mask is constant over the taps of every kernel."""
    viewed = mask.reshape([axis.target for dim in dims for axis in dim])
    for index, axis in enumerate(axis for dim in dims for axis in dim):
        if axis.kernel and not bool((viewed == viewed.narrow(index, 0, 1)).all()):
            return False
    return True
