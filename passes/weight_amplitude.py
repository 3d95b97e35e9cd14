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

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Axis, ComputedWeight, Dims, KernelEntry, Shape
from fxscale.passes.ops import elementwise, join, normalise, product, reduce, reshape, slicing
from fxscale.passes.ops import weight_norm as norms
from fxscale.passes.ops.registry import Call, Handler, lookup
from fxscale.passes.tracer import VALUE

if TYPE_CHECKING:
    from fxscale.passes.annotate import Annotator

REMEDY = "name the layer in keep, which leaves its kernel as it is"


@dataclass(frozen=True)
class Gain:
    """A parameter that multiplies a kernel: one number along `axis`, or one for all of it."""

    key: str
    axis: Axis | None


@dataclass(frozen=True)
class Amplitude:
    """Powers of the kernel and of its taps, parameters that are factors, and how it is centred.

    `mean` marks the mean of a kernel over all of its taps; a kernel minus its mean is `centred`.
    """

    degree: float = 0
    taps: float = 0
    gains: frozenset[Gain] = frozenset()
    centred: bool = False
    mean: bool = False


def computed_weight(annotator: Annotator, convolution: fx.Node, weight: fx.Node) -> ComputedWeight:
    """Everything that is to know about the weight of one convolution, which is annotated already.

    **Raises:** `UnsupportedModelError` at the node of the weight's computation that is in the way.
    """
    axes = annotator.layouts.axes[convolution]
    annotation = annotator.annotations[weight]
    found = annotation.dims[2:] if isinstance(annotation, Shape) else ()
    if found != tuple((axis,) if axis else () for axis in axes):
        raise _Reader.at(annotator, weight).refuse(
            "the axes of the kernel cannot be followed from a parameter to here", REMEDY
        )
    reader = _Reader(annotator, annotator.layouts.sources[convolution])
    result = reader.amplitude(weight)
    entries = tuple(sorted(reader.entries.values(), key=lambda e: e.kind != "kernel"))
    if not entries or entries[0].kind != "kernel":
        raise _Reader.at(annotator, weight).refuse("no parameter holds the kernel", REMEDY)
    kernel = [axis for dim in entries[0].dims for axis in dim]
    for gain in sorted(result.gains, key=lambda gain: gain.key):
        if result.degree == 0 and (gain.axis is None or gain.axis in kernel):
            view = tuple(axis.target if axis is gain.axis else 1 for axis in kernel)
            return ComputedWeight(
                entries, axes, result.degree, result.taps, gain.key, view, result.centred
            )
    return ComputedWeight(entries, axes, result.degree, result.taps)


class _Reader:
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
        rule = _RULES.get(registration.handler) if registration else None
        if rule is None:
            raise call.refuse("nothing is known of what this does to a kernel's amplitude", REMEDY)
        return rule(self, call)

    def _state(self, node: fx.Node) -> Amplitude:
        key = str(node.target)
        dims = self.annotator.annotations[node].dims
        if key in self.annotator.parameters:
            self.entries[key] = KernelEntry(key, dims, "kernel")
            return Amplitude(degree=1)
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
                handler is join.arithmetic and _name(node) in ("mul", "div") and len(nodes) == 1
            )
            if not (handler in _VIEWS or scaled) or not isinstance(node.args[0], fx.Node):
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


# One rule per handler.

_INPLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
Rule = Callable[[_Reader, Call], Amplitude]
_VIEWS: tuple[Handler, ...] = (
    elementwise.identity,
    reshape.flatten,
    reshape.view,
    reshape.reshape,
    reshape.view_as,
    reshape.unsqueeze,
    reshape.squeeze,
    reshape.permute,
    reshape.transpose,
)


def _name(node: fx.Node) -> str:
    """The name of an operator, in whichever of its forms it is called."""
    name: str = getattr(node.target, "__name__", str(node.target)).rstrip("_")
    if node.target in _INPLACE:
        name = name.removeprefix("i")
    return "div" if name in ("truediv", "true_divide") else name


def _first(reader: _Reader, call: Call) -> Amplitude:
    return reader.amplitude(call.node.args[0] if call.node.args else call.node.kwargs["input"])


def _power(amplitude: Amplitude, exponent: float) -> Amplitude:
    gains = amplitude.gains if exponent == 1 else frozenset[Gain]()
    return Amplitude(amplitude.degree * exponent, amplitude.taps * exponent, gains)


def _multiplied(left: Amplitude, right: Amplitude) -> Amplitude:
    return Amplitude(
        left.degree + right.degree,
        left.taps + right.taps,
        left.gains | right.gains,
        left.centred or right.centred,
    )


def _arithmetic(reader: _Reader, call: Call) -> Amplitude:
    name = _name(call.node)
    a, b = reader.amplitude(call.raw("a")), reader.amplitude(call.raw("b"))
    if name == "mul":
        product = _multiplied(a, b)
        gains = reader.gains_over(call, "a", "b") | reader.gains_over(call, "b", "a")
        return replace(product, gains=product.gains | gains)
    if name == "div":
        quotient = _multiplied(a, _power(b, -1))
        return replace(quotient, gains=quotient.gains | reader.gains_over(call, "a", "b"))
    if name == "pow" and isinstance(call.raw("b"), int | float):
        return _power(a, call.raw("b"))
    if name in ("add", "sub"):
        if not isinstance(call.raw("b"), fx.Node):  # a small constant keeps a root from zero
            return replace(a, mean=False)
        if not isinstance(call.raw("a"), fx.Node):
            return replace(b, mean=False)
        if (a.degree, a.taps) == (b.degree, b.taps):
            centred = b.mean and name == "sub"
            return Amplitude(a.degree, a.taps, a.gains & b.gains, centred)
    raise call.refuse("a sum of tensors that scale differently with the size of a kernel", REMEDY)


_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0, "reciprocal": -1.0}
_KEEPS = ("abs", "clamp", "clamp_min", "clone", "contiguous", "detach", "double", "float", "neg")
_CASTS = ("to", "type", "type_as", "half", "bfloat16")


def _elementwise(reader: _Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    name = _name(call.node)
    if name in _POWERS:
        return _power(first, _POWERS[name])
    if name in _KEEPS or name in _CASTS:
        return first
    if isinstance(call.module, nn.Identity):
        return first
    raise call.refuse("a kernel goes through a function that is not homogeneous", REMEDY)


def _batch_norm(reader: _Reader, call: Call) -> Amplitude:
    """Standardisation: each output channel's kernel is a channel of the normalisation."""
    if call.node.target is not F.batch_norm:
        raise call.refuse("kernels are normalised over groups", REMEDY)
    _first(reader, call)  # notes the kernel, whose own amplitude is lost here
    names = [
        "input",
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "training",
        "momentum",
        "eps",
    ]
    arguments = {**dict(zip(names, call.node.args, strict=False)), **call.node.kwargs}
    if arguments.get("bias") is not None or arguments.get("training") is not True:
        raise call.refuse("kernels are normalised by stored statistics, or shifted", REMEDY)
    gain = reader.amplitude(arguments.get("weight"))
    gains = reader.gains(arguments.get("weight"), call.dims()[1:2])
    return Amplitude(gain.degree, gain.taps, gain.gains | gains, centred=True)


def _normalised(reader: _Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    power, dim = float(call.value("p", 2.0)), call.value("dim", 1)
    dims = call.dims()
    over = {d % len(dims) for d in (dim if isinstance(dim, tuple | list) else (dim,))}
    return Amplitude(0, -_share(reader, call, over) / power, centred=first.centred)


def _share(reader: _Reader, call: Call, over: Collection[int]) -> float:
    """1 for a reduction over all of a kernel's taps, 0 for one over none of them."""
    source = call.node.args[0] if call.node.args else call.node.kwargs["input"]
    assert isinstance(source, fx.Node)
    dims = call.annotator.annotations[source].dims
    kernel = reader.kernel_axes(source)
    reduced = {axis for index in over for axis in dims[index] if axis.kernel}
    if reduced and reduced != kernel:
        raise call.refuse("a reduction over one of several axes of a kernel", REMEDY)
    return 1.0 if reduced else 0.0


def _mean(reader: _Reader, call: Call) -> Amplitude:
    share = _share(reader, call, reduce.reduced(call))
    mean = share == 1 and _name(call.node) == "mean"
    return replace(_first(reader, call), gains=frozenset(), mean=mean, centred=False)


def _spread(reader: _Reader, call: Call) -> Amplitude:
    _share(reader, call, reduce.reduced(call))
    squared = _name(call.node) == "var"
    return replace(_power(_first(reader, call), 2 if squared else 1), gains=frozenset())


def _spread_and_mean(reader: _Reader, call: Call) -> Amplitude:
    return _first(reader, call)  # one amplitude for two tensors: the items take it apart


def _item(reader: _Reader, call: Call) -> Amplitude:
    source = call.raw("input")
    first = reader.amplitude(source)
    registration = lookup(reader.annotator.target_of(source))
    if registration is None or registration.handler is not reduce.reduce_spread_and_mean:
        raise call.refuse("a part of a kernel", REMEDY)
    inner = reader.at(reader.annotator, source)
    share = _share(reader, inner, reduce.reduced(inner))
    if call.raw("index") == 1:
        return replace(first, gains=frozenset(), mean=share == 1)
    return replace(_power(first, 2 if _name(source) == "var_mean" else 1), gains=frozenset())


def _sum(reader: _Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    share = _share(reader, call, reduce.reduced(call))
    return Amplitude(first.degree, first.taps + share)


def _norm(reader: _Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    share = _share(reader, call, reduce.reduced(call))
    return Amplitude(first.degree, first.taps + share * reduce.norm_power(call))


def _product(reader: _Reader, call: Call) -> Amplitude:
    left, right = call.dims("input"), call.dims("other")
    if any(axis.kernel for axis in (*left[-1], *right[-2])):
        raise call.refuse("a matrix product over the taps of a kernel", REMEDY)
    product = _multiplied(reader.amplitude(call.raw("input")), reader.amplitude(call.raw("other")))
    return replace(product, gains=frozenset(), centred=False)


def _weight_norm(reader: _Reader, call: Call) -> Amplitude:
    reader.amplitude(call.raw("v"))
    gain = reader.amplitude(call.raw("g"))
    if gain.degree:
        raise call.refuse("a norm per tap of the kernel", REMEDY)
    return Amplitude(0, -0.5, reader.gains(call.raw("g"), call.dims("v")))


def _spectral_norm(reader: _Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    return Amplitude(0, -0.5, centred=first.centred)


def _pad(reader: _Reader, call: Call) -> Amplitude:
    """One tap among zeros: what it sums to does not depend on how many zeros there are."""
    return Amplitude(degree=1)


_RULES: dict[Handler, Rule] = {
    **dict.fromkeys(_VIEWS, _first),
    elementwise.keep_shape: _elementwise,
    elementwise.normalisation_function: _batch_norm,
    normalise.normalise: _normalised,
    join.arithmetic: _arithmetic,
    join.negate: _first,
    reduce.reduce_mean: _mean,
    reduce.reduce_spread: _spread,
    reduce.reduce_spread_and_mean: _spread_and_mean,
    reduce.reduce_sum: _sum,
    reduce.reduce_norm: _norm,
    slicing.getitem: _item,
    slicing.pad: _pad,
    product.matrix_product: _product,
    norms.weight_norm: _weight_norm,
    norms.spectral_norm: _spectral_norm,
}
