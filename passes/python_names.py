"""Names that Python code in `forward` uses, as they must answer while it is traced.

A proxy is neither a tensor nor an int, and `isinstance` cannot be taught otherwise without making
torch's C code believe it, too. While a model is traced, the modules that define its classes see

1. `isinstance`, `type`, `hasattr` and `getattr`, `torch.is_tensor` and `torch.jit.isinstance`,
   which ask for the value behind a proxy;
2. the Python source of functions that were scripted with `torch.jit.script`, which take no proxies;
3. a `torch.utils.checkpoint.checkpoint` that calls the function: what it computes is the same, and
   the memory that it saves is a matter of the training loop;
4. functions such as `torch.rand` that make tensors of given sizes and leave no way to say that a
   size is a proxy;
5. a `torch.autograd.Variable` that detaches, which is all that is left of it in torch;
6. an `int` that gives back the proxy of an int, as it is, and a `float` that becomes a node:
   Python's own would take the number out of the graph.

A function stands for the classes `int`, `float`, `type` and `Variable` where a module's code does
nothing with them but call them.

`torch.fx` treats `len` and the functions given to `fx.wrap` in the same way. Everything is put
back afterwards.
"""

from __future__ import annotations

import builtins
import dis
import functools
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from fxscale.passes.proxies import class_of

_MISSING = object()
_FACTORIES = (
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "tensor",
    "zeros",
)
_CHECKPOINT = torch.utils.checkpoint.checkpoint
_JIT_ISINSTANCE: Callable[[Any, Any], Any] = torch.jit.isinstance
_VARIABLE = torch.autograd.Variable
_NUMBERS = (int, float)


@contextmanager
def answering_for_values(model: nn.Module, value_of: Callable[[fx.Proxy], Any]) -> Iterator[None]:
    """Let the code of `model`'s classes ask about the values of proxies (see the module).

    To be used inside `answering_as_tensors`.
    """

    def behind(thing: Any) -> Any:
        return value_of(thing) if builtins.isinstance(thing, fx.Proxy) else thing

    def is_instance(thing: Any, classes: Any, /) -> bool:
        return builtins.isinstance(thing, classes) or builtins.isinstance(behind(thing), classes)

    def is_tensor(thing: Any, /) -> bool:
        return is_instance(thing, torch.Tensor)

    def jit_is_instance(obj: Any, target_type: Any) -> Any:
        return _JIT_ISINSTANCE(behind(obj), target_type)

    def type_of(thing: Any, *more: Any, **kwargs: Any) -> Any:
        return _type_of(behind(thing), *more, **kwargs)

    def has_attribute(thing: Any, name: str, /) -> bool:
        own = builtins.isinstance(thing, fx.Proxy) and name in vars(thing)
        return own or builtins.hasattr(behind(thing), name)

    def attribute(thing: Any, name: str, /, *default: Any) -> Any:
        traced = builtins.isinstance(thing, fx.Proxy)
        if traced and default and not has_attribute(thing, name):
            return default[0]
        return builtins.getattr(thing, name, *default)

    def integer(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and builtins.type(behind(args[0])) is builtins.int:
            return args[0]
        return builtins.int(*args, **kwargs)

    def real(*args: Any) -> Any:
        thing = args[0] if args else None
        if builtins.isinstance(thing, fx.Proxy) and builtins.type(behind(thing)) in _NUMBERS:
            return thing.tracer.create_proxy("call_function", builtins.float, args, {})
        return builtins.float(*args)

    def variable(thing: Any, *args: Any, **kwargs: Any) -> Any:
        traced = builtins.isinstance(thing, fx.Proxy) and not args and not kwargs
        return thing.detach() if traced else _VARIABLE(thing, *args, **kwargs)

    functions = {"isinstance": is_instance, "hasattr": has_attribute, "getattr": attribute}
    classes = {"int": integer, "float": real, "Variable": variable}
    instead: dict[Any, Any] = {torch.is_tensor: is_tensor, _JIT_ISINSTANCE: jit_is_instance}
    with _replacing() as put:
        put(vars(torch), "is_tensor", is_tensor)
        put(vars(torch.jit), "isinstance", jit_is_instance)
        for name in _FACTORIES:
            put(vars(torch), name, _recorded(getattr(torch, name)))
        for namespace in _namespaces(model):
            for name, value in list(namespace.items()):
                if builtins.isinstance(value, FunctionType) and value in instead:
                    put(namespace, name, instead[value])
            for name, function in functions.items():
                if name not in namespace:
                    put(namespace, name, function)
            if namespace.get("type") is _type_of:
                put(namespace, "type", type_of)
            known = {"int", "float"} - namespace.keys()
            if namespace.get("Variable") is _VARIABLE:
                known.add("Variable")
            for name in only_called(known, namespace):
                put(namespace, name, classes[name])
        yield


@contextmanager
def answering_as_tensors(model: nn.Module) -> Iterator[None]:
    """Points 2 and 3, and `type`, which hold when the model is called on fake tensors, too."""
    with _replacing() as put:
        put(vars(torch.utils.checkpoint), "checkpoint", _call)
        for namespace in _namespaces(model):
            for name, value in list(namespace.items()):
                if builtins.isinstance(value, torch.jit.ScriptFunction):
                    # torch keeps the source for torch.compile, which cannot enter a scripted one.
                    put(namespace, name, getattr(value, "_torchdynamo_inline", value))
                elif value is _CHECKPOINT:
                    put(namespace, name, _call)
            for name in only_called({"type"} - namespace.keys(), namespace):
                put(namespace, name, _type_of)
        yield


def _type_of(thing: Any, *more: Any, **kwargs: Any) -> Any:
    return builtins.type(thing, *more, **kwargs) if more else class_of(thing)


@contextmanager
def _replacing() -> Iterator[Callable[[dict[str, Any], str, Any], None]]:
    """A function that gives a name another value in a namespace, until the context is left."""
    changed: list[tuple[dict[str, Any], str, Any]] = []

    def put(namespace: dict[str, Any], name: str, value: Any) -> None:
        changed.append((namespace, name, namespace.get(name, _MISSING)))
        namespace[name] = value

    try:
        yield put
    finally:
        for namespace, name, value in reversed(changed):
            if value is _MISSING:
                del namespace[name]
            else:
                namespace[name] = value


def _namespaces(model: nn.Module) -> Iterator[dict[str, Any]]:
    """The global names of the modules that define the model's classes, and of their neighbours.

    Helpers live beside the classes that call them, in the same package; torch's own code and
    this compiler's are left alone.
    """
    names = {cls.__module__ for module in model.modules() for cls in type(module).__mro__}
    packages = {name.partition(".")[0] for name in names} - {"torch", "builtins", "fxscale"}
    names = {name for name in names if not name.startswith(("torch.", "builtins"))}
    for name, module in list(sys.modules.items()):
        if module is not None and (name in names or name.partition(".")[0] in packages):
            yield vars(module)


def only_called(names: Collection[str], namespace: dict[str, Any]) -> set[str]:
    """The global names for which the functions of a module have no use but to call them.

    In `isinstance(x, int)` or `dtype=int` a function cannot stand for the class.
    """
    found = set(names)
    for code in _code(namespace):
        found -= {name for name in found.intersection(code.co_names) if not _only_calls(name, code)}
    return found


def _code(namespace: dict[str, Any]) -> Iterator[CodeType]:
    """The code of a module's functions, and of the methods of its classes."""
    pending: list[Any] = list(namespace.values())
    for value in namespace.values():
        if builtins.isinstance(value, type) and value.__module__ == namespace.get("__name__"):
            pending += vars(value).values()
    while pending:
        value = pending.pop()
        if builtins.isinstance(value, CodeType):
            yield value
            pending += [inner for inner in value.co_consts if builtins.isinstance(inner, CodeType)]
        elif builtins.isinstance(value, staticmethod | classmethod):
            pending.append(value.__func__)
        elif builtins.isinstance(value, property):
            pending += [value.fget, value.fset]
        elif builtins.isinstance(value, FunctionType):
            if value.__globals__ is namespace:
                pending.append(value.__code__)
            pending.append(getattr(value, "__wrapped__", None))


@functools.cache
def _only_calls(name: str, code: CodeType) -> bool:
    """Whether every load of a global name prepares a call (the lowest bit of its argument)."""
    loads = [
        (instruction.opname, instruction.arg or 0)
        for instruction in dis.get_instructions(code)
        if instruction.argval == name and instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    ]
    return all(operator == "LOAD_GLOBAL" and argument & 1 for operator, argument in loads)


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose calls with a proxy among its arguments become nodes."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if builtins.isinstance(leaf, fx.Proxy):
                return leaf.tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return call


def _call(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: Any = None,
    context_fn: Any = None,
    determinism_check: Any = None,
    debug: Any = None,
    preserve_rng_state: Any = None,
    **kwargs: Any,
) -> Any:
    return function(*args, **kwargs)
