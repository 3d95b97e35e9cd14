"""The one place where operators meet their handlers.

A handler says what an operator does to axes: it gets a `Call` and returns the annotation of the
result. It is registered for module classes, functions and tensor methods (`".view"`):

    @handles(torch.flatten, ".flatten", params="input start_dim end_dim")
    def flatten(call: Call) -> Annotation: ...

An operator without a handler is refused; nobody guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch._ops import OpOverloadPacket

from fxscale.applied import Applied
from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import Annotation, Dims, Shape
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import module_path, refusal
from fxscale.passes.tracer import class_name

if TYPE_CHECKING:
    from fxscale.passes.annotate import Annotator

Handler = Callable[["Call"], Annotation]


@dataclass(frozen=True)
class Registration:
    handler: Handler
    params: tuple[str, ...]


_REGISTRY: dict[Hashable, Registration] = {}


def handles(*targets: Hashable, params: str = "input") -> Callable[[Handler], Handler]:
    """Register a handler for module classes, functions and method names such as `".view"`.

    For a class of `torch.autograd.Function`, `params` are the arguments of its `apply`.
    A module class of a package that need not be there goes by its name, `"package.module:Class"`,
    an operator that a package adds to torch by its own, `"package.operator"`.
    `params` names the operator's arguments in order; a last name with a star collects the rest.
    A second handler for the same operator raises `ValueError`.
    """

    def register(handler: Handler) -> Handler:
        for target in dict.fromkeys(targets):  # torch and torch.nn.functional share functions
            if target in _REGISTRY:
                raise ValueError(
                    f"{target!r} has two handlers: {_REGISTRY[target].handler.__qualname__} and "
                    f"{handler.__qualname__}"
                )
            _REGISTRY[target] = Registration(handler, tuple(params.split()))
        return handler

    return register


def lookup(target: Hashable) -> Registration | None:
    target = target.function if isinstance(target, Applied) else target
    try:
        found = _REGISTRY.get(target)
    except TypeError:  # an unhashable callable object
        return None
    if isinstance(target, OpOverloadPacket):
        return found or _REGISTRY.get(str(target))
    return found or (_REGISTRY.get(class_name(target)) if isinstance(target, type) else None)


def is_known(node: fx.Node) -> bool:
    """Whether a node calls a function or method that has a handler, or a layer."""
    target = f".{node.target}" if node.op == "call_method" else node.target
    return node.op not in ("call_function", "call_method") or lookup(target) is not None


def registered_leaves() -> frozenset[Hashable]:
    """Functions and module classes with a handler, or their names: the tracer enters none."""
    return frozenset(
        target
        for target in _REGISTRY
        if (isinstance(target, str) and ":" in target)
        or (isinstance(target, type) and issubclass(target, nn.Module))
        or isinstance(target, FunctionType)
    )


@dataclass(frozen=True)
class Call:
    """One node, seen by its handler: arguments by name, annotations, and the annotator."""

    node: fx.Node
    params: tuple[str, ...]
    annotator: Annotator
    module: nn.Module | None = None

    def raw(self, name: str, default: Any = None) -> Any:
        """The argument as it stands in the graph, where it may be a node."""
        star = self.params[-1].startswith("*")
        if star and name == self.params[-1][1:]:
            rest = self.node.args[len(self.params) - 1 :]
            if len(rest) == 1 and isinstance(rest[0], tuple | list | fx.Node):
                single = rest[0]
                if not isinstance(single, fx.Node) or isinstance(
                    single.meta.get(VALUE), tuple | list
                ):
                    return single
            return rest if rest else self.node.kwargs.get(name, default)
        index = self.params.index(name)
        if index < len(self.node.args):
            return self.node.args[index]
        return self.node.kwargs.get(name, default)

    def place(self, name: str) -> int | str:
        """Where the argument stands in the node: a position or a keyword."""
        index = self.params.index(name.lstrip("*") if name in self.params else f"*{name}")
        return index if index < len(self.node.args) else name

    def value(self, name: str, default: Any = None) -> Any:
        """The argument's value at the target size."""
        return fx.node.map_arg(self.raw(name, default), lambda n: n.meta[VALUE])

    def annotation(self, name: str) -> Annotation:
        """The argument's annotation; containers keep their structure."""
        return self.annotator.annotation_of(self.raw(name))

    def dims(self, name: str = "input") -> Dims:
        """The dimensions of a tensor argument."""
        annotation = self.annotation(name)
        if not isinstance(annotation, Shape):
            raise self.refuse(
                f"argument {name!r} is not a tensor that the compiler has followed",
                "compute it from the model's inputs with supported operators",
            )
        return annotation.dims

    @property
    def result(self) -> Any:
        """The node's own value at the target size."""
        return self.node.meta[VALUE]

    def refuse(self, reason: str, remedy: str) -> UnsupportedModelError:
        return refusal(
            self.node,
            f"{describe(self.node, self.module)}: {reason}",
            remedy=remedy,
            module=module_path(self.node),
        )


def describe(node: fx.Node, module: nn.Module | None) -> str:
    """The operator of a node in the words of the model's author."""
    if module is not None:
        return type(module).__name__
    if node.op == "call_method":
        return f"Tensor.{node.target}"
    return getattr(node.target, "__name__", str(node.target))


def any_node(argument: Any) -> bool:
    """Whether an argument, or a part of it, is computed in the graph."""
    found: list[fx.Node] = []
    fx.node.map_arg(argument, found.append)
    return bool(found)


def per_axis(value: Any, rank: int) -> tuple[Any, ...]:
    """An operator's argument with one entry per spatial axis."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value) if len(value) == rank else tuple(value) * rank
    return (value,) * rank
