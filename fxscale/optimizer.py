"""`upscale_optimizer`: the optimizer goes through the transition with the weights.

The weights follow a linear map `w = A w'`, so a step of the pre-train network, carried over, is `A`
times that step. Hence

1. first moments (`momentum_buffer` of SGD, `exp_avg` of Adam) and past steps (`momentum_buffer` of
   RMSprop) go through `A` itself: with no new gradient the target steps exactly where the pre-train
   network would have gone;
2. second moments (`exp_avg_sq`, `square_avg`, Adagrad's `sum`, Adadelta's `acc_delta`) go through
   the squares of the entries of `A`: the second moment of a weighted sum of independent terms. Adam
   divides one by the root of the other, so the size of its step stays what it was, whatever the
   amplitude of `A`;
3. step counts are carried: bias correction goes on where it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from fxscale.errors import FxscaleError, StateMismatchError
from fxscale.plan import StateMap
from fxscale.resample import DEFAULT_INTERPOLATION, Interpolation, Kernel, upscale_entry
from fxscale.upscale import kernel_of, maps_between
from fxscale.wrappers import match_keys, unwrap

_COUNTS = frozenset({"step", "mu_product"})
"""One number for a parameter; the second is NAdam's product of momenta."""
_SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta"})
_ADAM = frozenset({"step", "exp_avg", "exp_avg_sq"})
_STATE_OF: dict[type[Optimizer], frozenset[str]] = {
    SGD: frozenset({"momentum_buffer"}),
    Adam: _ADAM | {"max_exp_avg_sq"},
    AdamW: _ADAM | {"max_exp_avg_sq"},
    NAdam: _ADAM | {"mu_product"},
    RAdam: _ADAM,
    # Not `grad_avg`, of `centered`: squared, an upscaled mean may exceed the second moment.
    RMSprop: frozenset({"step", "square_avg", "momentum_buffer"}),
    Adagrad: frozenset({"step", "sum"}),
    Adadelta: frozenset({"step", "square_avg", "acc_delta"}),
}
_OWN_OPTIONS = frozenset(
    {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}
)
"""Options of a group that say how the new optimizer computes, and over what: never carried."""

Group = dict[str, Any]
Parameters = dict[Tensor, tuple[str, ...]]
"""Parameter -> its names, several where it is tied."""


@dataclass(frozen=True)
class CarriedOptimizer:
    """An optimizer for the target, checked and computed, not yet written.

    **Attributes:**

    - `optimizer`: the one that `write` changes.
    - `options`: per group of it, what the group will hold beside its parameters.
    - `state`: per parameter of the target, its state.
    """

    optimizer: Optimizer
    options: tuple[Group, ...]
    state: Mapping[Tensor, dict[str, Any]]

    def write(self) -> Optimizer:
        for group, options in zip(self.optimizer.param_groups, self.options, strict=True):
            group.update(options)
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        return self.optimizer


def upscale_optimizer(
    optimizer: Optimizer,
    pretrain: nn.Module,
    target: nn.Module,
    new_optimizer: Optimizer | None = None,
    *,
    others: Iterable[Tensor] = (),
    interpolation: Interpolation = DEFAULT_INTERPOLATION,
) -> Optimizer:
    """Carry the pre-train network's optimizer over to the target's.

    Learning rate, `initial_lr`, weight decay and every other option of a parameter group are kept;
    `foreach`, `fused`, `capturable` and `differentiable` stay as the new optimizer has them. A
    learning-rate scheduler goes on with the new one by `fxscale.move_scheduler`.

    **Arguments:**

    - `optimizer`: `SGD`, `Adam`, `AdamW`, `NAdam`, `RAdam`, `RMSprop` (not `centered`), `Adagrad`
      or `Adadelta` of `torch.optim`, over parameters of `pretrain`.
    - `pretrain`, `target`: the two networks; wrappers are understood. `target` may be a larger
      pre-train stage of the same target network.
    - `new_optimizer`: of the same class, over the same parameters (by name) of `target`, in the
      same groups (in any order); what state it has is replaced. By default one is made.
    - `others`: parameters of neither network that the optimizer may hold as well, such as those of
      a loss: the new optimizer holds the same ones, with their state.
    - `interpolation`: as for `upscale_state`.

    **Returns:** the new optimizer.

    **Raises:**

    - `StateMismatchError`: parameters or groups do not match, or the state is not finite.
    - `FxscaleError`: another class of optimizer: its state means something fxscale does not know.
    - `PlanMismatchError`: `pretrain` has no plan.
    """
    return carry_optimizer(
        optimizer, pretrain, target, new_optimizer, interpolation, others
    ).write()


def carry_optimizer(
    optimizer: Optimizer,
    pretrain: nn.Module,
    target: nn.Module,
    new_optimizer: Optimizer | None = None,
    interpolation: Interpolation = DEFAULT_INTERPOLATION,
    others: Iterable[Tensor] = (),
) -> CarriedOptimizer:
    """`upscale_optimizer` up to the point where the new optimizer would be changed."""
    maps = {m.key: m for m in maps_between(pretrain, target)}
    old = bare_optimizer(optimizer)
    if type(old) not in _STATE_OF:
        raise FxscaleError(
            f"cannot carry the state of {type(old).__name__}: expected one of torch.optim, "
            f"{', '.join(kind.__name__ for kind in _STATE_OF)}. Start the target with a fresh "
            "optimizer instead"
        )
    old_names = _parameters(pretrain, maps, "pre-train")
    new_names = _parameters(target, maps, "target")
    kept: Parameters = {p: (f"other {index}",) for index, p in enumerate(dict.fromkeys(others))}
    old_names, new_names = kept | old_names, kept | new_names
    old_groups = _named_groups(old, old_names, "pre-train")
    by_name = {name: parameter for parameter, names in new_names.items() for name in names}
    old_by_name = {name: parameter for parameter, names in old_names.items() for name in names}
    if new_optimizer is None:
        new = _like(old, old_groups, by_name)
    else:
        new = bare_optimizer(new_optimizer)
        if type(new) is not type(old):
            raise FxscaleError(
                f"the new optimizer is of another class: expected {type(old).__name__}, found "
                f"{type(new).__name__}"
            )
    order = _match_groups(old_groups, _named_groups(new, new_names, "target"))
    options: list[Group] = []
    state: dict[Tensor, dict[str, Any]] = {}
    for group, index in zip(new.param_groups, order, strict=True):
        old_group = old.param_groups[index]
        options.append({k: deepcopy(v) for k, v in old_group.items() if k not in _OWN_OPTIONS})
        for parameter in old_group["params"]:
            name = old_names[parameter][0]
            entries = old.state.get(parameter, {})
            if name not in maps:
                state[parameter] = dict(entries)
                continue
            carried = {
                key: _carry(
                    key,
                    value,
                    parameter,
                    by_name[name],
                    maps[name],
                    group,
                    interpolation,
                    kernel_of(maps[name], maps, old_by_name),
                )
                for key, value in _checked(entries, name, type(old)).items()
            }
            if carried:
                state[by_name[name]] = carried
    return CarriedOptimizer(new, tuple(options), state)


def bare_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside the wrappers of Lightning Fabric and the like."""
    inner = getattr(optimizer, "optimizer", None)
    return bare_optimizer(inner) if isinstance(inner, Optimizer) else optimizer


def _parameters(module: nn.Module, maps: Mapping[str, StateMap], role: str) -> Parameters:
    """Parameters with their names in the plan; checked against its shapes."""
    named = dict(unwrap(module).named_parameters(remove_duplicate=False))
    names = match_keys(named, maps)
    result: Parameters = {}
    for key, parameter in named.items():
        name = names[key]
        if name not in maps:
            raise StateMismatchError(
                f"parameter {key!r} of the {role} network is not in the plan: expected the two "
                f"networks of one plan"
            )
        shape = maps[name].target_shape if role == "target" else maps[name].pretrain_shape
        if tuple(parameter.shape) != shape:
            raise StateMismatchError(
                f"parameter {key!r} of the {role} network: expected shape {shape}, found "
                f"{tuple(parameter.shape)}"
            )
        result[parameter] = tuple(sorted((*result.get(parameter, ()), name)))
    return result


def _named_groups(optimizer: Optimizer, names: Parameters, role: str) -> list[list[str]]:
    """The first name of every parameter, group by group."""
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        strangers = [p for p in group["params"] if p not in names]
        if strangers:
            raise StateMismatchError(
                f"group {index} of the {role} network's optimizer: expected parameters of the "
                f"{role} network, found {len(strangers)} others, the first of shape "
                f"{tuple(strangers[0].shape)}"
            )
        groups.append([names[p][0] for p in group["params"]])
    return groups


def _match_groups(old: list[list[str]], new: list[list[str]]) -> list[int]:
    """For every new group the index of the old group with the same parameters."""
    missing = sorted({n for group in old for n in group} - {n for group in new for n in group})
    surplus = sorted({n for group in new for n in group} - {n for group in old for n in group})
    if missing or surplus:
        raise StateMismatchError(
            "the two optimizers hold different parameters: "
            f"only the pre-train network's has {missing}, only the target's has {surplus}"
        )
    indices = {frozenset(names): index for index, names in enumerate(old)}
    for index, names in enumerate(new):
        if frozenset(names) not in indices:
            raise StateMismatchError(
                f"group {index} of the new optimizer matches no group of the old one: expected the "
                f"same parameters together, found {len(names)}, the first {names[0]!r}"
            )
    return [indices[frozenset(names)] for names in new]


def _like(old: Optimizer, groups: list[list[str]], parameters: Mapping[str, Tensor]) -> Optimizer:
    """A new optimizer of the same class and options over the target's parameters."""
    accepted = inspect.signature(type(old)).parameters
    defaults = {k: deepcopy(v) for k, v in old.defaults.items() if k in accepted}
    new_groups: list[Group] = []
    for group, names in zip(old.param_groups, groups, strict=True):
        options = {k: deepcopy(v) for k, v in group.items() if k not in ("params", "param_names")}
        members: list[Any] = [parameters[name] for name in names]
        if "param_names" in group:
            members = list(zip(names, members, strict=True))
        new_groups.append({**options, "params": members})
    factory: Any = type(old)
    new: Optimizer = factory(new_groups, **defaults)
    return new


def _checked(entries: Mapping[str, Any], name: str, kind: type[Optimizer]) -> Mapping[str, Any]:
    unknown = sorted(entries.keys() - _STATE_OF[kind])
    if unknown:
        raise FxscaleError(
            f"{kind.__name__} keeps unknown state for {name!r}: expected "
            f"{sorted(_STATE_OF[kind])}, found {unknown} as well. Start the target with a fresh "
            "optimizer instead"
        )
    return entries


def _carry(
    key: str,
    value: Any,
    old: Tensor,
    new: Tensor,
    state_map: StateMap,
    group: Group,
    interpolation: Interpolation,
    kernel: Kernel | None,
) -> Any:
    """One entry of one parameter's state."""
    if value is None:  # momentum_buffer where momentum is zero
        return None
    if key in _COUNTS:
        return _count(value, new, group)
    if not isinstance(value, Tensor) or value.shape != old.shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise StateMismatchError(
            f"{key} of {state_map.key!r}: expected shape {tuple(old.shape)}, found {found}"
        )
    if not bool(torch.isfinite(value).all()):
        raise StateMismatchError(
            f"{key} of {state_map.key!r}: found NaN or infinity, expected finite values"
        )
    upscaled = upscale_entry(
        value, state_map, interpolation, squared=key in _SECOND_MOMENTS, kernel=kernel
    )
    dtype = new.dtype if value.dtype == old.dtype else value.dtype
    # Laid out in memory like the parameter: fused and foreach kernels are fast only then.
    return torch.empty_like(new, dtype=dtype, requires_grad=False).copy_(upscaled)


def _count(value: Any, parameter: Tensor, group: Group) -> Tensor:
    """Where and how `torch.optim` keeps it, given the flags of the new optimizer's group."""
    count = torch.as_tensor(value).detach()
    if group.get("fused"):
        return count.to(parameter.device, torch.float32, copy=True)
    if group.get("capturable"):
        return count.to(parameter.device, copy=True)
    return count.to("cpu", copy=True)
