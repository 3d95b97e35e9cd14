"""`with torch.no_grad():` and `with torch.autocast(...):` in the code that is traced.

While a model is traced, entering and leaving such a block writes an operator of
`fxscale/contexts.py` into the graph. Each node keeps the autocast settings under which it was
traced, so that its value can be computed again, out of its block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import fx

from fxscale.contexts import (
    AutocastState,
    enter_autocast,
    enter_grad_mode,
    leave_autocast,
    leave_grad_mode,
)

AUTOCAST = "fxscale_autocast"
"""Key of `node.meta` under which the innermost autocast settings of a node are kept."""

_WRITTEN = "fxscale_written"
"""Attribute of a block under which the device type and dtype are kept as they were written."""


class Recorder(Protocol):
    """What the tracer offers: a node for a call, or `None` where nothing is recorded."""

    autocast: list[AutocastState]

    def record_call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any: ...


def autocast_of(node: fx.Node) -> Any:
    """The context under which a node's value is to be computed."""
    settings: AutocastState | None = node.meta.get(AUTOCAST)
    if settings is None:
        return nullcontext()
    device_type, dtype, enabled, cache_enabled = settings
    return torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


@contextmanager
def recording_with_blocks(tracer: Recorder) -> Iterator[None]:
    """Write the blocks that are entered into `tracer`'s graph."""
    grad_modes: dict[type, Callable[[Any], bool]] = {
        torch.no_grad: lambda block: False,
        torch.inference_mode: lambda block: not block.mode,
        torch.enable_grad: lambda block: True,
        torch.set_grad_enabled: lambda block: block.mode,
    }
    with ExitStack() as stack:
        for cls, mode in grad_modes.items():
            stack.enter_context(_patched(cls, *_grad_mode(tracer, mode)))
        stack.enter_context(_patched(torch.autocast, *_autocast(tracer)))
        stack.enter_context(_autocast_of_traced_values())
        yield


def _grad_mode(
    tracer: Recorder, mode: Callable[[Any], bool]
) -> tuple[Callable[[Any], Any], Callable[[Any], None]]:
    def enter(block: Any) -> Any:
        return tracer.record_call(enter_grad_mode, (mode(block),))

    def leave(before: Any) -> None:
        tracer.record_call(leave_grad_mode, (before,))

    return enter, leave


def _autocast(tracer: Recorder) -> tuple[Callable[[Any], Any], Callable[[Any], None]]:
    def enter(block: Any) -> Any:
        flags = (block._enabled, block._cache_enabled)
        written = getattr(block, _WRITTEN, (block.device, block.fast_dtype))
        context = tracer.record_call(enter_autocast, (*written, *flags))
        if context is not None:
            tracer.autocast.append((block.device, block.fast_dtype, *flags))
        return context

    def leave(context: Any) -> None:
        tracer.autocast.pop()
        tracer.record_call(leave_autocast, (context,))

    return enter, leave


@contextmanager
def _autocast_of_traced_values() -> Iterator[None]:
    """Let `torch.autocast(x.device.type, dtype=x.dtype)` be asked with traced values.

    The block itself is built with their values; the graph keeps what was written, so that it asks
    the device and its default dtype anew when it runs.
    """
    own_init = torch.autocast.__init__

    def init_block(
        self: Any,
        device_type: Any,
        dtype: Any = None,
        enabled: Any = True,
        cache_enabled: bool | None = None,
    ) -> None:
        own_init(self, _value(device_type), _value(dtype), bool(enabled), cache_enabled)
        if isinstance(device_type, fx.Proxy) or isinstance(dtype, fx.Proxy):
            setattr(self, _WRITTEN, (device_type, dtype))

    torch.autocast.__init__ = init_block  # type: ignore[method-assign]  # for the time of a trace
    try:
        yield
    finally:
        torch.autocast.__init__ = own_init  # type: ignore[method-assign]  # for the time of a trace


def _value(argument: Any) -> Any:
    return argument.value if isinstance(argument, fx.Proxy) else argument


@contextmanager
def _patched(
    cls: type, enter: Callable[[Any], Any], leave: Callable[[Any], None]
) -> Iterator[None]:
    """Call `enter` and `leave` besides what the blocks of a class do."""
    own_enter, own_exit = cls.__enter__, cls.__exit__  # type: ignore[attr-defined]  # a context manager has both
    entered: dict[int, list[Any]] = {}

    def enter_block(self: Any) -> Any:
        entered.setdefault(id(self), []).append(enter(self))
        return own_enter(self)

    def exit_block(self: Any, *details: Any) -> Any:
        recorded = entered[id(self)].pop() if entered.get(id(self)) else None
        result = own_exit(self, *details)
        if recorded is not None:
            leave(recorded)
        return result

    cls.__enter__, cls.__exit__ = enter_block, exit_block  # type: ignore[attr-defined]  # a context manager has both
    try:
        yield
    finally:
        cls.__enter__, cls.__exit__ = own_enter, own_exit  # type: ignore[attr-defined]  # a context manager has both
