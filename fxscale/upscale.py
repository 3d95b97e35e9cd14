"""`upscale_state`: the trained pre-train network's state as the target network's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fxscale.errors import PlanMismatchError, StateMismatchError
from fxscale.plan import ScalePlan, StateMap
from fxscale.resample import DEFAULT_INTERPOLATION, Interpolation, Kernel, upscale_entry
from fxscale.wrappers import match_keys, unwrap

_MAX_LISTED = 10


def upscale_state(
    pretrain: nn.Module | ScalePlan,
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    into: nn.Module | ScalePlan | None = None,
    interpolation: Interpolation = DEFAULT_INTERPOLATION,
) -> dict[str, Tensor]:
    """The target network's state dict, from a trained pre-train network (Eq. 5 and 6, 3.3.2).

    Kernels and the weights of fully connected interfaces are resized and their amplitude is
    corrected by `product(k' / k)`; everything else is copied. Strict both ways:
    `target.load_state_dict(upscale_state(pretrain))` finds every key, and nothing more.

    **Arguments:**

    - `pretrain`: the network returned by `fxscale.downscale`, also wrapped by
      `DistributedDataParallel`, `torch.compile` or Lightning Fabric; or its `ScalePlan`, then with
      `state_dict`.
    - `state_dict`: the state to map, `pretrain.state_dict()` by default. Key prefixes `module.` and
      `_orig_mod.`, also nested, are understood.
    - `into`: another pre-train stage (network or plan) of the same target; the result is then the
      state of that stage. For training in several stages: sizes that grow are interpolated, sizes
      that shrink take the least-squares inverse.
    - `interpolation`: `"bicubic"` (the default: it keeps more of the accuracy, see
      docs/experiments.md) or `"bilinear"` (the paper's).

    **Returns:** fresh tensors under the target's keys, in the plan's order; computed in float32
    (float64 for float64), in the dtype and on the device of their entry.

    **Raises:**

    - `StateMismatchError`: entries are missing, surplus, of another shape or type, or not finite.
      All are listed. Negative infinity is allowed in copied entries: attention masks hold it.
    - `PlanMismatchError`: `pretrain` has no plan, or `into` belongs to another target.
    """
    plan = plan_of(pretrain)
    maps = plan.state if into is None else stage_maps(plan, plan_of(into))
    reference = None if isinstance(pretrain, ScalePlan) else unwrap(pretrain).state_dict()
    state = state_dict if state_dict is not None else reference
    if state is None:
        raise StateMismatchError(
            "a plan holds no weights: pass upscale_state(plan, state_dict) or the pre-train network"
        )
    entries = check_state(plan, state, reference)
    by_key = {m.key: m for m in maps}
    upscaled = {
        m.key: upscale_entry(entries[m.key], m, interpolation, kernel=kernel_of(m, by_key, entries))
        for m in maps
    }
    return with_versions(upscaled, plan)


def with_versions(state: Mapping[str, Tensor], plan: ScalePlan) -> dict[str, Tensor]:
    """The state with the versions that some modules ask for when they load theirs."""
    versioned = OrderedDict(state)
    metadata = {m.path: {"version": m.version} for m in plan.module_versions}
    versioned._metadata = metadata  # type: ignore[attr-defined]  # as Module.state_dict does
    return versioned


def kernel_of(
    state_map: StateMap, maps: Mapping[str, StateMap], entries: Mapping[str, Tensor]
) -> Kernel | None:
    """The kernel whose amplitude an entry stands for, with its map."""
    return None if state_map.of is None else (entries[state_map.of], maps[state_map.of])


def plan_of(pretrain: object) -> ScalePlan:
    """The plan of a compiled network, seen through any wrapper, or the plan itself.

    **Raises:** `PlanMismatchError` if there is none.
    """
    inner = unwrap(pretrain) if isinstance(pretrain, nn.Module) else pretrain
    plan = inner if isinstance(inner, ScalePlan) else getattr(inner, "plan", None)
    if isinstance(plan, ScalePlan):
        return plan
    raise PlanMismatchError(
        f"{type(pretrain).__name__} carries no plan: expected the pre-train network that "
        f"fxscale.downscale returned, or its ScalePlan"
    )


def stage_maps(plan: ScalePlan, into: ScalePlan) -> tuple[StateMap, ...]:
    """State maps from one pre-train stage straight to another of the same target."""
    if plan.fingerprint != into.fingerprint:
        raise PlanMismatchError(
            f"the two stages have different targets: expected fingerprint {plan.fingerprint} "
            f"({plan.model}), found {into.fingerprint} ({into.model})"
        )
    others = {m.key: m for m in into.state}
    return tuple(_compose(m, others[m.key]) for m in plan.state)


def maps_between(pretrain: nn.Module, network: nn.Module) -> tuple[StateMap, ...]:
    """State maps to `network`: the target, or a later pre-train stage of the same target."""
    plan = plan_of(pretrain)
    into = getattr(unwrap(network), "plan", None)
    if not isinstance(into, ScalePlan):
        return plan.state
    maps = stage_maps(plan, into)
    images = prod(into.pretrain_size) - prod(plan.pretrain_size)
    if images < 0 or (images == 0 and all(m.pretrain_view == m.target_view for m in maps)):
        raise PlanMismatchError(
            f"expected the target network ({plan.model}) or a pre-train network for images larger "
            f"than {_times(plan.pretrain_size)} or with larger kernels, found one for "
            f"{_times(into.pretrain_size)}"
        )
    return maps


def _compose(first: StateMap, second: StateMap) -> StateMap:
    # A copied entry is the target's own, laid out as the other stage sees the target.
    if first.kind == "copy":
        first = _unchanged(second)
    elif second.kind == "copy":
        second = _unchanged(first)
    if (first.kind, first.target_view) != (second.kind, second.target_view):
        raise PlanMismatchError(
            f"the two stages see {first.key!r} differently: expected {first.kind} of view "
            f"{first.target_view}, found {second.kind} of view {second.target_view}"
        )
    return replace(
        first,
        target_shape=second.pretrain_shape,
        target_view=second.pretrain_view,
        parts=tuple(map(_compose, first.parts, second.parts)),
    )


def _unchanged(state_map: StateMap) -> StateMap:
    return replace(
        state_map,
        pretrain_shape=state_map.target_shape,
        pretrain_view=state_map.target_view,
        parts=tuple(map(_unchanged, state_map.parts)),
    )


def check_state(
    plan: ScalePlan, state: object, reference: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """The entries of `state` under the plan's own keys, or `StateMismatchError` listing all faults.

    `reference`, the state of the network itself, tells which entries are integers.
    """
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise StateMismatchError(
            f"expected a state dict, from names to tensors, found {type(state).__name__}"
        )
    names = match_keys(state, (m.key for m in plan.state))
    entries: dict[str, Any] = {}
    faults = []
    for key, name in names.items():
        if name in entries:
            faults.append(f"{key}: expected {name} once, found it under several prefixes")
        entries[name] = state[key]
    like = {} if reference is None else dict(_renamed(reference, plan))
    for m in plan.state:
        if m.key not in entries:
            faults.append(f"{m.key}: expected shape {m.pretrain_shape}, found no such entry")
        else:
            fault = _fault(entries[m.key], m, like.get(m.key))
            faults += [f"{m.key}: {fault}"] if fault else []
    surplus = entries.keys() - {m.key for m in plan.state}
    faults += [f"{key}: expected no such entry, found it" for key in entries if key in surplus]
    if faults:
        raise StateMismatchError(_report(plan, entries, faults))
    return entries


def _renamed(state: Mapping[str, Any], plan: ScalePlan) -> Iterable[tuple[str, Any]]:
    names = match_keys(state, (m.key for m in plan.state))
    return ((names[key], value) for key, value in state.items())


def _fault(entry: object, state_map: StateMap, like: Tensor | None) -> str | None:
    """What is wrong with one entry, as "expected ..., found ...", or `None`."""
    if not isinstance(entry, Tensor):
        return f"expected a tensor, found {type(entry).__name__}"
    if entry.is_meta:
        return "expected a tensor with data, found one on the meta device"
    if tuple(entry.shape) != state_map.pretrain_shape:
        return f"expected shape {state_map.pretrain_shape}, found {tuple(entry.shape)}"
    if state_map.pretrain_view != state_map.target_view and not entry.is_floating_point():
        return f"expected a floating-point tensor, found {entry.dtype}"
    if like is not None and like.is_floating_point() != entry.is_floating_point():
        return f"expected a tensor like {like.dtype}, found {entry.dtype}"
    if entry.is_floating_point() or entry.is_complex():
        return _finite_fault(entry.detach(), masks_allowed=state_map.kind == "copy")
    return None


def _finite_fault(entry: Tensor, *, masks_allowed: bool) -> str | None:
    if bool(torch.isfinite(entry).all()):
        return None
    tests: list[tuple[str, Callable[[Tensor], Tensor]]] = [("NaN", torch.isnan)]
    if entry.is_complex():
        tests.append(("infinite", torch.isinf))
    else:
        tests.append(("+inf", torch.isposinf))
        if not masks_allowed:
            tests.append(("-inf", torch.isneginf))
    counts = [(name, int(test(entry).sum())) for name, test in tests]
    found = ", ".join(f"{count} {name}" for name, count in counts if count)
    return f"expected finite values, found {found} of {entry.numel()}" if found else None


def _report(plan: ScalePlan, entries: Mapping[str, Any], faults: list[str]) -> str:
    sizes = f"{_times(plan.pretrain_size)} -> {_times(plan.target_size)}"
    lines = [f"the state does not fit the pre-train network of {plan.model} ({sizes}):"]
    lines += [f"  {fault}" for fault in faults[:_MAX_LISTED]]
    if len(faults) > _MAX_LISTED:
        lines.append(f"  and {len(faults) - _MAX_LISTED} more")
    shapes = {key: tuple(getattr(entry, "shape", ())) for key, entry in entries.items()}
    if shapes == {m.key: m.target_shape for m in plan.state}:
        lines.append("These are the shapes of the target network: it is upscaled already.")
    nested = [key for key, entry in entries.items() if isinstance(entry, Mapping)]
    if nested:
        lines.append(f"{nested[0]!r} is itself a dict: pass that one if it is the state dict.")
    return "\n".join(lines)


def _times(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
