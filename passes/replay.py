"""Whether the graph of a trace does what the model does when it is called.

Python code can ask a proxy what no tracer hears: `x.dtype is torch.float32`, `match x: case
torch.Tensor():`. The answer is that of a proxy, and the trace goes a way that no tensor goes.
Therefore the model is called once more, on fake tensors, and its graph is followed: both must call
the same functions of torch, one after the other, with the same weights and numbers, and make
tensors of the same shapes.

Heard is what is computed from the images and the weights. What is computed from neither, such as
`torch.arange(7)`, is a constant of the graph.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fxscale.contexts import CONTEXT_FUNCTIONS
from fxscale.errors import UnsupportedModelError, first_line
from fxscale.passes.assignments import assigns_data
from fxscale.passes.carried_state import keeping_attributes
from fxscale.passes.evaluate import normalised, quiet_failures
from fxscale.passes.feature_maps import FeatureMapMode, Method
from fxscale.passes.in_place import writes
from fxscale.passes.ops.registry import is_known
from fxscale.passes.randomness import keeping_generators
from fxscale.passes.refusal import failing_line, refusal
from fxscale.passes.with_blocks import autocast_of

_HEARD = "_fxscale_heard"
"""Attribute of fake tensors that are computed from images or weights."""

_PLAIN = {type(None), type(...), bool, int, float, str, slice, torch.dtype, torch.device}
_FEW = 100
"""A constant of so many entries is compared entry by entry."""
_DETACH = torch.ops.aten.detach.default  # as `torch.autograd.Variable` does
_UNBIND = (torch.unbind, Tensor.unbind)

_REMEDY = (
    "ask with isinstance(x, torch.Tensor), and compare dtypes with ==: match and `is` see the "
    "proxy that stands for a tensor in a trace. What changes from call to call, such as a counter "
    "outside the model, belongs into an argument of forward"
)


@dataclass(frozen=True)
class Heard:
    """A function of torch that was called, what with, and what it made.

    Two are equal where the same function, given the same weights and numbers, made tensors of the
    same shapes and dtypes. `node` is that of the graph which was followed.
    """

    function: Any
    arguments: tuple[str, ...]
    results: tuple[tuple[torch.Size, torch.dtype], ...]
    node: fx.Node | None = field(default=None, compare=False)

    def __str__(self) -> str:
        owner = getattr(self.function, "__self__", None)  # of `x.T` and the like
        name = getattr(owner if owner is not None else self.function, "__name__", self.function)
        return f"{name} of {', '.join(str(tuple(shape)) for shape, _ in self.results)}"

    def beside(self, other: Heard | None) -> str:
        """As text, with the arguments that differ where nothing else does."""
        if other is None or str(self) != str(other):
            return str(self)
        pairs = zip_longest(self.arguments, other.arguments, fillvalue="nothing")
        return f"{self} with {', '.join(mine for mine, its in pairs if mine != its)}"


class Other(NamedTuple):
    """The first call that differs: the model's, the graph's, and the node where it is."""

    called: Heard | None
    traced: Heard | None
    node: fx.Node


def check_replay(graph: fx.Graph, inputs: Mapping[str, Any], listener: Listener) -> None:
    """Refuse a graph that calls other functions than its model does on the fake `inputs`.

    To be used inside `answering_as_tensors`. Raises `UnsupportedModelError`.
    """
    other = first_other_call(graph, inputs, listener)
    if other is not None:
        called, traced, node = other
        raise refusal(
            node,
            "forward goes another way with a tensor than in its trace: it calls "
            f"{called.beside(traced) if called else 'nothing more'}, the trace "
            f"{traced.beside(called) if traced else 'nothing more'}",
            remedy=_REMEDY,
        )


def first_other_call(
    graph: fx.Graph, inputs: Mapping[str, Any], listener: Listener
) -> Other | None:
    """Where the calls of a graph and of its model part. Raises as `check_replay` does."""
    try:
        traced = listener.hear(lambda: _follow(graph, inputs, listener))
    except Exception as error:  # of an operator that nobody knows: of others, it is a mistake here
        if listener.node is None or is_known(listener.node):
            raise
        raise refusal(
            listener.node,
            f"the trace cannot be run: {first_line(error)}",
            remedy="take the operator out of forward, or register a handler for the module that "
            "contains it with fxscale.register",
        ) from error
    try:
        called = listener.hear(lambda: _call(listener.model, inputs))
    except Exception as error:  # whatever the model's forward raises
        raise UnsupportedModelError(
            f"forward can be traced, but not called on a fake tensor: {first_line(error)}",
            node=next(iter(reversed(graph.nodes))).name,
            source=failing_line(error),
            remedy=_REMEDY,
        ) from error
    for expected, found in zip_longest(called, traced):
        if expected != found:
            node = found.node if found is not None else traced[-1].node if traced else None
            return Other(expected, found, node or next(iter(graph.nodes)))
    return None


def _call(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    signature = inspect.signature(model.forward)
    given = {name: inputs[name] for name in signature.parameters if name in inputs}
    bound = inspect.BoundArguments(signature, given)
    model.forward(*bound.args, **bound.kwargs)


def _follow(graph: fx.Graph, inputs: Mapping[str, Any], listener: Listener) -> None:
    model = listener.model
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        listener.node = node
        if node.op == "output" or node.target in CONTEXT_FUNCTIONS:
            values[node] = None
        elif node.op == "placeholder":
            default = node.args[0] if node.args else None
            values[node] = inputs.get(str(node.target), default)
        elif node.op == "get_attr":
            values[node] = listener.constant(operator.attrgetter(str(node.target))(model))
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with autocast_of(node):
                values[node] = _function(node, model)(*args, **kwargs)
    listener.node = None


def _function(node: fx.Node, model: nn.Module) -> Callable[..., Any]:
    target: Any = node.target
    if node.op == "call_module":
        return model.get_submodule(target)
    return Method(target) if node.op == "call_method" else target


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided


def _name(function: Any) -> str:
    return getattr(function, "__name__", "")


class Listener(TorchFunctionMode):
    """Writes down the functions that are called, and computes on fake tensors what they make.

    Equal functions of equal feature maps are computed once, in the calls of either mode.
    """

    def __init__(self, model: nn.Module, fake_mode: FeatureMapMode) -> None:
        super().__init__()
        self.model = model
        self.fake_mode = fake_mode
        self.node: fx.Node | None = None
        self.calls: list[Heard] = []
        self._made: list[Tensor] = []  # the fake mode forgets what nobody holds
        state = (*model.named_parameters(), *model.named_buffers())
        self._state = {id(tensor): name for name, tensor in state}
        self._storages = {t.untyped_storage()._cdata for _, t in state if _has_storage(t)}

    def hear(self, run: Callable[[], None]) -> list[Heard]:
        self.calls = []
        keeping = (keeping_attributes(self.model), keeping_generators(self.model))
        with keeping[0], keeping[1], quiet_failures(), self:
            run()
        return self.calls

    def constant(self, value: Any) -> Any:
        """A constant of the graph as every call of the model makes it: nothing written into it."""
        real = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return value.clone() if real and id(value) not in self._state else value

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if assigns_data(function):  # what was written in place
            return None
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not any(isinstance(t, FakeTensor) or id(t) in self._state for t in tensors):
            return function(*args, **kwargs)
        heard = any(map(self._is_heard, tensors))
        result = self._compute(function, args, kwargs, heard)
        if heard:
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            for tensor in made:
                if id(tensor) not in self._state:
                    setattr(tensor, _HEARD, True)
            self._made += made
            # A trace reads `x.mT` where it is used.
            if (made or result is None) and _name(function) != "__get__":
                self._write_down(function, leaves, made)
        return result

    def _write_down(self, function: Any, leaves: Sequence[Any], made: Sequence[Tensor]) -> None:
        arguments = tuple(map(self._argument, leaves))
        facts = tuple((tensor.shape, tensor.dtype) for tensor in made)
        if function in _UNBIND:  # so does `a, b = x`, of which a trace reads the items
            for index, fact in enumerate(facts):
                item = (arguments[0], str(index))
                self.calls.append(Heard(Tensor.__getitem__, item, (fact,), self.node))
        else:
            same = Tensor.detach if function is _DETACH else function
            heard = Heard(same, arguments, facts, self.node)
            if same is not Tensor.detach or self.calls[-1:] != [heard]:  # torch 2.9 does so twice
                self.calls.append(heard)

    def _argument(self, argument: Any) -> str:
        if isinstance(argument, Tensor):
            return self._state.get(id(argument)) or self._contents(argument)
        return repr(argument) if type(argument) in _PLAIN else type(argument).__name__

    def _contents(self, tensor: Tensor) -> str:
        """A tensor as an argument: of a constant, what is in it, if that is not much."""
        if isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.is_inference():
            return "Tensor"
        if tensor.numel() > _FEW or not _has_storage(tensor):
            return "Tensor"
        if tensor.untyped_storage()._cdata in self._storages:
            return "Tensor"  # a view of the state, which is fake where the graph makes it
        return f"Tensor {tensor.detach().cpu().tolist()}"

    def _is_heard(self, tensor: Tensor) -> bool:
        """Integers of the state count calls, as BatchNorm's; nothing is computed from them."""
        known = id(tensor) in self._state and tensor.is_floating_point()
        return known or hasattr(tensor, _HEARD)

    def _compute(self, function: Any, args: Any, kwargs: Any, heard: bool) -> Any:
        if function is F.batch_norm:
            return normalised(*args, **kwargs)
        name = _name(function)
        method = getattr(Tensor, name, None) is function
        called = Method(name) if method else function
        if writes(name, kwargs) and not heard:
            return args[0]  # a counter
        if writes(name, kwargs):
            result = self.fake_mode.write(called, *args, **kwargs)
            itself = result is not None and args and id(args[0]) in self._state
            return args[0] if itself else result
        if heard and name not in ("__get__", "new"):  # what `new` makes is resized in place
            return self.fake_mode.feature_map(called, *args, **kwargs)
        return self.fake_mode.compute(called, *args, **kwargs)
