"""What each operator does to the amplitude of a kernel: one rule per handler.

The powers that a rule tracks are those of `passes/weight_amplitude.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Axis
from fxscale.passes.ops import elementwise, join, normalise, product, reduce, reshape, slicing
from fxscale.passes.ops import weight_norm as norms
from fxscale.passes.ops.registry import Call, Handler, lookup

if TYPE_CHECKING:
    from fxscale.passes.weight_amplitude import Reader

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


_INPLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
Rule = Callable[["Reader", Call], Amplitude]
VIEWS: tuple[Handler, ...] = (
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


def name_of(node: fx.Node) -> str:
    """The name of an operator, in whichever of its forms it is called."""
    name: str = getattr(node.target, "__name__", str(node.target)).rstrip("_")
    if node.target in _INPLACE:
        name = name.removeprefix("i")
    return "div" if name == "truediv" else name


def _first(reader: Reader, call: Call) -> Amplitude:
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


def _arithmetic(reader: Reader, call: Call) -> Amplitude:
    name = name_of(call.node)
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


def _elementwise(reader: Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    name = name_of(call.node)
    if name in _POWERS:
        return _power(first, _POWERS[name])
    if name in _KEEPS or name in _CASTS:
        return first
    if isinstance(call.module, nn.Identity):
        return first
    raise call.refuse("a kernel goes through a function that is not homogeneous", REMEDY)


def _batch_norm(reader: Reader, call: Call) -> Amplitude:
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


def _normalised(reader: Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    power, dim = float(call.value("p", 2.0)), call.value("dim", 1)
    dims = call.dims()
    over = {d % len(dims) for d in (dim if isinstance(dim, tuple | list) else (dim,))}
    return Amplitude(0, -_share(reader, call, over) / power, centred=first.centred)


def _share(reader: Reader, call: Call, over: Collection[int]) -> float:
    """1 for a reduction over all of a kernel's taps, 0 for one over none of them."""
    source = call.node.args[0] if call.node.args else call.node.kwargs["input"]
    assert isinstance(source, fx.Node)
    dims = call.annotator.annotations[source].dims
    kernel = reader.kernel_axes(source)
    reduced = {axis for index in over for axis in dims[index] if axis.kernel}
    if reduced and reduced != kernel:
        raise call.refuse("a reduction over one of several axes of a kernel", REMEDY)
    return 1.0 if reduced else 0.0


def _mean(reader: Reader, call: Call) -> Amplitude:
    share = _share(reader, call, reduce.reduced(call))
    mean = share == 1 and name_of(call.node) == "mean"
    return replace(_first(reader, call), gains=frozenset(), mean=mean, centred=False)


def _spread(reader: Reader, call: Call) -> Amplitude:
    _share(reader, call, reduce.reduced(call))
    squared = name_of(call.node) == "var"
    return replace(_power(_first(reader, call), 2 if squared else 1), gains=frozenset())


def _spread_and_mean(reader: Reader, call: Call) -> Amplitude:
    return _first(reader, call)  # one amplitude for two tensors: the items take it apart


def _item(reader: Reader, call: Call) -> Amplitude:
    source = call.raw("input")
    first = reader.amplitude(source)
    registration = lookup(reader.annotator.target_of(source))
    if registration is None or registration.handler is not reduce.reduce_spread_and_mean:
        return _channels(reader, call)
    inner = reader.at(reader.annotator, source)
    share = _share(reader, inner, reduce.reduced(inner))
    if call.raw("index") == 1:
        return replace(first, gains=frozenset(), mean=share == 1)
    return replace(_power(first, 2 if name_of(source) == "var_mean" else 1), gains=frozenset())


def _channels(reader: Reader, call: Call) -> Amplitude:
    """Some of the channels, with all of their taps."""
    first, source = _first(reader, call), call.raw("input")
    if reader.kernel_axes(call.node) != reader.kernel_axes(source):
        raise call.refuse("a part of a kernel", REMEDY)
    return replace(first, gains=frozenset(), centred=False)


def _joined(reader: Reader, call: Call) -> Amplitude:
    """Kernels one behind the other."""
    parts = [reader.amplitude(part) for part in call.raw("tensors")]
    if len({(part.degree, part.taps) for part in parts}) > 1:
        raise call.refuse("kernels that scale differently with their size, joined", REMEDY)
    return replace(parts[0], gains=frozenset(), centred=False, mean=all(p.mean for p in parts))


def _sum(reader: Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    share = _share(reader, call, reduce.reduced(call))
    return Amplitude(first.degree, first.taps + share)


def _norm(reader: Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    share = _share(reader, call, reduce.reduced(call))
    return Amplitude(first.degree, first.taps + share * reduce.norm_power(call))


def _product(reader: Reader, call: Call) -> Amplitude:
    left, right = call.dims("input"), call.dims("other")
    if any(axis.kernel for axis in (*left[-1], *right[-2])):
        raise call.refuse("a matrix product over the taps of a kernel", REMEDY)
    product = _multiplied(reader.amplitude(call.raw("input")), reader.amplitude(call.raw("other")))
    return replace(product, gains=frozenset(), centred=False)


def _weight_norm(reader: Reader, call: Call) -> Amplitude:
    reader.amplitude(call.raw("v"))
    gain = reader.amplitude(call.raw("g"))
    if gain.degree:
        raise call.refuse("a norm per tap of the kernel", REMEDY)
    return Amplitude(0, -0.5, reader.gains(call.raw("g"), call.dims("v")))


def _spectral_norm(reader: Reader, call: Call) -> Amplitude:
    first = _first(reader, call)
    return Amplitude(0, -0.5, centred=first.centred)


def _pad(reader: Reader, call: Call) -> Amplitude:
    """One tap among zeros: what it sums to does not depend on how many zeros there are."""
    return Amplitude(degree=1)


RULES: dict[Handler, Rule] = {
    **dict.fromkeys(VIEWS, _first),
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
    slicing.take: _channels,
    join.concatenate: _joined,
    slicing.pad: _pad,
    product.matrix_product: _product,
    norms.weight_norm: _weight_norm,
    norms.spectral_norm: _spectral_norm,
}
