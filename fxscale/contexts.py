"""Contexts inside `forward`, as operators of a graph: `torch.no_grad` and `torch.autocast`.

`torch.fx` sees no `with` statement. The compiler writes an operator where a context is entered and
one where it is left; they take their effect when the network runs.
"""

from __future__ import annotations

import torch

AutocastState = tuple[str, torch.dtype, bool, bool]
"""Device type, dtype, whether autocast is on, and whether it caches cast weights."""


def enter_grad_mode(enabled: bool) -> bool:
    """Switch the recording of gradients on or off; returns whether it was on."""
    before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(enabled)
    return before


def leave_grad_mode(before: bool) -> None:
    """Go back to what `enter_grad_mode` returned."""
    torch._C._set_grad_enabled(before)


def enter_autocast(
    device_type: str, dtype: torch.dtype | None, enabled: bool, cache_enabled: bool
) -> AutocastState:
    """Do what entering `torch.autocast` with these arguments does; returns what was before.

    `dtype=None` stands for the device's own default.
    Plain values, and not the context itself, which `torch.compile` cannot keep over a graph break.
    """
    before = (
        device_type,
        torch.get_autocast_dtype(device_type),
        torch.is_autocast_enabled(device_type),
        torch.is_autocast_cache_enabled(),
    )
    _set_autocast(device_type, dtype or before[1], enabled, cache_enabled)
    torch.autocast_increment_nesting()
    return before


def leave_autocast(before: AutocastState) -> None:
    """Go back to what `enter_autocast` returned."""
    if torch.autocast_decrement_nesting() == 0 and not torch.compiler.is_compiling():
        torch.clear_autocast_cache()
    _set_autocast(*before)


def _set_autocast(device_type: str, dtype: torch.dtype, enabled: bool, cache_enabled: bool) -> None:
    torch.set_autocast_enabled(device_type, enabled)
    torch.set_autocast_dtype(device_type, dtype)
    torch.set_autocast_cache_enabled(cache_enabled)


CONTEXT_FUNCTIONS = (enter_grad_mode, leave_grad_mode, enter_autocast, leave_autocast)
