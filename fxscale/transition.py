"""`transition`: weights, optimizer and BatchNorm statistics go to the target in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fxscale.batchnorm import batchnorms, reestimate_batchnorm
from fxscale.errors import FxscaleError, PlanMismatchError
from fxscale.optimizer import carry_optimizer
from fxscale.plan import ScalePlan, StateMap
from fxscale.resample import DEFAULT_INTERPOLATION, Interpolation
from fxscale.upscale import maps_between, plan_of, upscale_state, with_versions
from fxscale.wrappers import match_keys, process_group, unwrap


@dataclass(frozen=True)
class TransitionReport:
    """What `transition` did.

    **Attributes:**

    - `resized`, `copied`: how many state entries were resized, and how many taken as they are.
    - `batchnorm_batches`: over how many batches BatchNorm was re-estimated; 0 if it was not.
    - `optimizer`: the target's optimizer, or `None` if none was passed in.
    """

    resized: int
    copied: int
    batchnorm_batches: int
    optimizer: Optimizer | None

    def __str__(self) -> str:
        parts = [f"{self.resized} entries resized, {self.copied} copied"]
        if self.optimizer is not None:
            parts.append(f"{type(self.optimizer).__name__} state carried")
        if self.batchnorm_batches:
            parts.append(f"BatchNorm re-estimated over {self.batchnorm_batches} batches")
        return "transition: " + ", ".join(parts)


def transition(
    pretrain: nn.Module,
    target: nn.Module,
    *,
    optimizer: Optimizer | None = None,
    new_optimizer: Optimizer | None = None,
    batches: Iterable[Any] | None = None,
    interpolation: Interpolation = DEFAULT_INTERPOLATION,
) -> TransitionReport:
    """Go on with the target network where the pre-train network stands (section 3.3).

    Everything is checked and computed before `target` and `new_optimizer` are touched; after an
    error they are as they were. One exception: if one of `batches` cannot be run, the weights are
    loaded by then, and only the BatchNorm statistics are not re-estimated.

        report = fxscale.transition(small, model, optimizer=optimizer, batches=islice(loader, 20))
        optimizer = report.optimizer

    **Arguments:**

    - `pretrain`: the trained network that `fxscale.downscale(target)` returned.
    - `target`: the target network, loaded in place; or, for training in several stages, a larger
      pre-train network of the same target. Either may be wrapped by `DistributedDataParallel`,
      `torch.compile` or Lightning Fabric. Under `DistributedDataParallel` every process calls this,
      and BatchNorm is re-estimated over the batches of all of them.
    - `optimizer`: the pre-train network's; its state is carried over, see `upscale_optimizer`.
    - `new_optimizer`: the target's, where you have one already; by default one of the same class,
      groups and options is made. Only together with `optimizer`.
    - `batches`: at the target's input size, to re-estimate BatchNorm over, see
      `reestimate_batchnorm`. None: the pre-train network's statistics are kept.
    - `interpolation`: as for `upscale_state`.

    **Raises:**

    - `PlanMismatchError`: `target` is not the network that the plan was made for.
    - `StateMismatchError`: the pre-train network holds entries that are not finite, or the
      optimizers do not match.
    - `FxscaleError`: an optimizer of an unknown class; no batches; a batch that cannot be run.
    """
    if new_optimizer is not None and optimizer is None:
        raise FxscaleError("new_optimizer without optimizer: there is no state to carry over")
    plan = plan_of(pretrain)
    network = unwrap(target)
    maps = maps_between(pretrain, network)
    names = _target_names(plan, maps, network)
    into = network if isinstance(getattr(network, "plan", None), ScalePlan) else None
    state = upscale_state(pretrain, into=into, interpolation=interpolation)
    carried = None
    if optimizer is not None:
        carried = carry_optimizer(optimizer, pretrain, target, new_optimizer, interpolation)
    first = _peeked(batches) if batches is not None and batchnorms(target) else None

    network.load_state_dict(with_versions({k: state[name] for k, name in names.items()}, plan))
    written = carried.write() if carried is not None else None
    resized = sum(m.pretrain_view != m.target_view for m in maps)
    group = process_group(target) or process_group(pretrain)
    return TransitionReport(
        resized=resized,
        copied=len(maps) - resized,
        batchnorm_batches=0 if first is None else reestimate_batchnorm(target, first, group=group),
        optimizer=written,
    )


def _target_names(plan: ScalePlan, maps: tuple[StateMap, ...], target: nn.Module) -> dict[str, str]:
    """Keys of the target's state dict -> keys of the maps, both complete."""
    shapes = {key: tuple(entry.shape) for key, entry in target.state_dict().items()}
    names = match_keys(shapes, (m.key for m in maps))
    found = {names[key]: shape for key, shape in shapes.items()}
    expected = {m.key: m.target_shape for m in maps}
    if found == expected and len(names) == len(expected):
        return names
    differing = sorted(
        key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
    )
    key = differing[0] if differing else next(iter(names))
    raise PlanMismatchError(
        f"the plan was made for another network ({plan.model}): {len(differing)} entries of "
        f"{type(target).__name__} differ, the first {key!r}: expected "
        f"{_shape(expected.get(key))}, found {_shape(found.get(key))}"
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no such entry" if shape is None else f"shape {shape}"


def _peeked(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, known to be at least one."""
    try:
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws from the random state here
            iterator = iter(batches)
            first = next(iterator)
    except StopIteration:
        raise FxscaleError(
            "no batches to re-estimate BatchNorm over: expected at least one, found none"
        ) from None
    return chain([first], iterator)
