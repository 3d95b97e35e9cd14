"""A `torch.fx` tracer whose proxies know their values.

Every proxy carries the fake tensor (or the plain Python value) that its node computes at the
target size, so that control flow over shapes, `len`, `range`, `int` and asserts resolve while
sizes stay symbolic in the graph. Each decision that the trace took from a value is kept as a
`Decision`:

1. the outcome of a comparison (`if x.shape[-1] > 7`, `assert h == 224`) is part of the target's
   architecture: the constant belongs to the target's size and scales with it, so the pre-train
   network takes the same branch;
2. a number that Python took (`range(h)`, `int(h / 2)`) is baked into the graph; the verify pass
   checks that it is the same in the pre-train network.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import Argument, Target
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from fxscale.contexts import AutocastState
from fxscale.errors import UnsupportedModelError, first_line
from fxscale.passes.calls import CallRecord
from fxscale.passes.evaluate import evaluate_node
from fxscale.passes.feature_maps import FeatureMapMode
from fxscale.passes.in_place import changes_in_place
from fxscale.passes.proxies import VALUE, ValueProxy, with_nodes
from fxscale.passes.refusal import SOURCE, calling_line, refusal
from fxscale.passes.with_blocks import AUTOCAST

Instruction = tuple[FrameType, int]
"""A frame and the bytecode instruction that it is at."""

CONSTANT = "_tensor_constant"
"""How fx begins the names of constants."""


@dataclass(frozen=True)
class Decision:
    """A Python value that the trace took out of a node, such as the outcome of an `if`.

    `read` takes it from the node's value.
    """

    node: fx.Node
    value: bool | int | float
    read: Callable[[Any], Any]


def class_name(cls: type) -> str:
    """The name of a class by which packages that may be missing are referred to."""
    return f"{cls.__module__}:{cls.__qualname__}"


_ENTERED = (ParametrizationList, _WeightNorm)
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def refuse_making(node: fx.Node, name: str) -> UnsupportedModelError:
    return refusal(
        node,
        f"forward makes {name!r} itself, of which the model knows nothing",
        remedy="make it in __init__, or call the model once on a batch of images if that makes it",
    )


class ValueTracer(fx.Tracer):
    """Traces a module at the sizes of `inputs` (fake tensors), computing every node's value.

    Modules of the exact classes in `leaves` (or of classes with these names), and instances of
    `opaque_types`, are kept as they are, besides all of `torch.nn`. `watch` is called with every
    node before it is computed.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        fake_mode: FeatureMapMode,
        inputs: dict[str, Any],
        leaves: frozenset[object],
        opaque_types: tuple[type[nn.Module], ...],
        watch: Callable[[fx.Node], None] | None = None,
    ) -> None:
        super().__init__()
        self.watch = watch
        self.fake_mode = fake_mode
        self.inputs = inputs
        self.leaves = leaves
        self.opaque_types = opaque_types
        self.decisions: list[Decision] = []
        self.record = CallRecord()
        self._instruction: Instruction | None = None
        self._asked_there = 0
        self._evaluating = False
        self._made: set[str] = set()
        self._versions: dict[int, tuple[torch.Tensor, int]] = {}
        self.autocast: list[AutocastState] = []
        self.asks_for_gradients = False

    def record_call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """A node for a call made by the code that is traced, not by a node that is computed."""
        if self._evaluating or not hasattr(self, "graph"):
            return None
        return self.create_proxy("call_function", function, args, {})

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type(m) in self.leaves or class_name(type(m)) in self.leaves
        if known or isinstance(m, self.opaque_types):
            return True
        if isinstance(m, _ENTERED) or (isinstance(m, _WEIGHTED) and is_parametrized(m)):
            return False  # the weight is computed in the graph
        return super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return ValueProxy(node, self)

    # While a node's value is computed, modules and attributes behave as if nobody was tracing.

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._evaluating:
            return attr_val
        path = self._state_paths.get(id(attr_val)) if isinstance(attr_val, torch.Tensor) else None
        if path is None:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if path not in parameter_proxy_cache:
            parameter_proxy_cache[path] = self.create_proxy("get_attr", path, (), {})
        return parameter_proxy_cache[path]

    def path_of(self, tensor: torch.Tensor) -> str | None:
        """The name of a parameter or buffer of the model."""
        return self._state_paths.get(id(tensor))

    @cached_property
    def _state_paths(self) -> dict[int, str]:
        """Where parameters and buffers are; fx searches all of them at every access."""
        state = (*self.root.named_buffers(), *self.root.named_parameters())
        return {id(tensor): path for path, tensor in state}

    def create_arg(self, a: Any) -> Argument:
        """A tensor that is no proxy is a constant of the graph; both modes read one, if equal."""
        constant = isinstance(a, torch.Tensor) and not isinstance(a, FakeTensor)
        twin = self._twin(a) if constant and a not in self.tensor_attrs else None
        if twin is not None:
            self.tensor_attrs[a] = twin
        argument = super().create_arg(a)
        if constant and isinstance(argument, fx.Node) and not a.is_inference():
            if twin is None:
                self._made.add(str(argument.target))
            self._versions.setdefault(id(a), (a, a._version))
        return argument

    def _twin(self, constant: torch.Tensor) -> str | None:
        """The name under which the other mode's trace has left an equal constant."""
        if constant.is_meta:
            return None
        for name, known in vars(self.root).items():
            if name.startswith(CONSTANT) and name not in self._made and known is not constant:
                same = (known.dtype, known.device) == (constant.dtype, constant.device)
                if same and torch.equal(known, constant):
                    return name
        return None

    def check_constants(self) -> None:
        """Refuse a constant that Python has changed since it was used: the graph has one value."""
        for tensor, version in self._versions.values():
            if tensor._version != version:
                raise refusal(
                    next(iter(reversed(self.graph.nodes))),
                    f"forward changes {self.tensor_attrs.get(tensor, 'a constant')!r} after it was "
                    "used",
                    remedy="make a new tensor for the new values",
                )

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._evaluating:
            return forward(*args, **kwargs)
        try:
            path = self.path_of_module(m)
        except NameError:
            if isinstance(m, nn.Sequential):  # a piece, as `layers[:3]`, is nowhere in the model
                return forward(*args, **kwargs)
            last = next(iter(reversed(self.graph.nodes)))
            raise refuse_making(last, type(m).__name__) from None
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        refuse_scripted(m, path)
        with self.record.entering(path, with_nodes((args, kwargs))) as call:
            result = super().call_module(m, forward, args, kwargs)
            call.outputs = with_nodes(result)
        return result

    def create_node(
        self,
        kind: str,
        target: Target,
        args: tuple[Argument, ...],
        kwargs: dict[str, Argument],
        name: str | None = None,
        type_expr: Any | None = None,
    ) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        self._forget_parsed_index(node)
        node.meta[SOURCE] = calling_line()
        if self.autocast:
            node.meta[AUTOCAST] = self.autocast[-1]
        self.record.add(node)
        if kind != "output":
            if self.watch is not None:
                self.watch(node)
            node.meta[VALUE] = self._evaluate(node)
        return node

    def _forget_parsed_index(self, node: fx.Node) -> None:
        """Take back the decision of `F.avg_pool2d(x, x.shape[-1])`, where nothing was decided.

        torch asks a size for its index only to recognise it as an int, then hands the call over to
        the tracer, size and all: one and the same instruction of the caller does both.
        """
        frame: FrameType | None = sys._getframe(1)
        while self._instruction is not None and frame is not None:
            if (frame, frame.f_lasti) == self._instruction:
                del self.decisions[len(self.decisions) - self._asked_there :]
                break
            frame = frame.f_back
        self._instruction = None

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.inputs.get(str(node.target), node.args[0] if node.args else None)
        self.check_constants()
        self._evaluating = True
        try:
            return evaluate_node(node, self.root, VALUE, self.fake_mode)
        except Exception as error:  # whatever the operator raises, said with its node
            raise refusal(
                node,
                f"{node.format_node()} failed at the target size: {first_line(error)}",
                remedy="check that the model runs at this target_size, or pass example_inputs",
            ) from error
        finally:
            self._evaluating = False
            if changes_in_place(node):  # in the graph, too: `passes/writes.py` looks after it
                self._versions = {k: (t, t._version) for k, (t, _) in self._versions.items()}

    def decide(self, node: fx.Node, convert: Callable[[Any], Any]) -> Any:
        value = node.meta[VALUE]
        if isinstance(value, torch.Tensor):
            raise refusal(
                node,
                f"Python asks for the contents of the tensor {node.name!r} (data-dependent control "
                "flow)",
                remedy="take the decision out of forward, for instance with torch.where",
            )
        result = convert(value)
        self.decisions.append(Decision(node, result, convert))
        return result

    def count(self, node: fx.Node) -> int:
        value = node.meta[VALUE]
        length = len(value)
        pieces = isinstance(value, tuple | list) and length > 0
        if isinstance(value[0] if pieces else value, torch.Tensor):  # may divide the batch
            self.decisions.append(Decision(node, length, len))
        return length

    def decide_index(self, node: fx.Node, instruction: Instruction) -> int:
        if instruction != self._instruction:
            self._instruction, self._asked_there = instruction, 0
        index = int(self.decide(node, operator.index))
        self._asked_there += 1
        return index

    def decide_contains(self, container: fx.Proxy, item: object) -> bool:
        value = container.node.meta[VALUE]
        if isinstance(value, dict):
            return item in value  # the keys of a dict do not depend on sizes
        return bool(self.create_proxy("call_function", operator.contains, (container, item), {}))

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.decide(obj.node, bool))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = obj.node.meta[VALUE]
        if not isinstance(value, torch.Tensor | Sequence):
            return iter(value)
        return iter([operator.getitem(obj, i) for i in range(self.count(obj.node))])

    def keys(self, obj: fx.Proxy) -> Any:
        value = obj.node.meta[VALUE]
        return value.keys() if isinstance(value, dict) else super().keys(obj)


def refuse_scripted(module: nn.Module, name: str) -> None:
    """Raises `UnsupportedModelError` for a module that is called and shows no operators."""
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"{name or 'the model'} is compiled by TorchScript, which cannot be traced",
            module=name or None,
            remedy="build the model of the Python module that it was compiled from, and script "
            "the pre-train network in its turn",
        )
