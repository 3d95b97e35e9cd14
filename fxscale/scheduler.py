"""`move_scheduler`: a learning-rate scheduler goes on with the target's optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fxscale.errors import FxscaleError, StateMismatchError
from fxscale.optimizer import Group, bare_optimizer


def move_scheduler(scheduler: object, optimizer: Optimizer) -> None:
    """Let a scheduler go on with another optimizer, from the learning rate that it has reached.

    Schedulers inside it move, too: those of `SequentialLR` and `ChainedScheduler`, and of timm's.
    Its step count, its best value and all else that it keeps stay as they are.

        report = fxscale.transition(small, model, optimizer=optimizer)
        fxscale.move_scheduler(scheduler, report.optimizer)

    **Arguments:**

    - `scheduler`: any of `torch.optim.lr_scheduler`, `ReduceLROnPlateau` included, or of a library
      that keeps its optimizer as `optimizer`. Changed in place.
    - `optimizer`: the new one, of as many groups, in the order of the old one's. Its learning rates
      become the old one's, also where it was not made by `upscale_optimizer`; what schedulers keep
      in groups (`initial_lr`, `max_lr`, `swa_lr`) is added where it is missing.

    **Raises:**

    - `StateMismatchError`: the groups are others. Nothing has changed then.
    - `FxscaleError`: `scheduler` has no optimizer, or holds schedulers of several.
    """
    parts = list(_parts(scheduler, set()))
    owners = {id(owner): owner for owner in map(_optimizer_of, parts) if owner is not None}
    if len(owners) != 1:
        raise FxscaleError(
            f"expected a learning-rate scheduler of one optimizer, found "
            f"{type(scheduler).__name__} of {len(owners)} optimizers"
        )
    (old,) = owners.values()
    new = bare_optimizer(optimizer)
    if new is old:
        return
    sizes = [[len(group["params"]) for group in one.param_groups] for one in (old, new)]
    if sizes[0] != sizes[1]:
        raise StateMismatchError(
            f"a scheduler counts on the groups of its optimizer: expected groups of {sizes[0]} "
            f"parameters, found {sizes[1]}. Give the new optimizer the same groups in the same "
            "order"
        )
    options = [_kept(*groups) for groups in zip(old.param_groups, new.param_groups, strict=True)]
    # torch's schedulers warn if they did not see the birth of their optimizer: one that is thrown
    # away did, and the rates that it writes are written over.
    LambdaLR(new, lambda _: 1.0)
    for group, kept in zip(new.param_groups, options, strict=True):
        group.update(kept)
    for part in parts:
        part.optimizer = new  # type: ignore[attr-defined]  # `_parts` found it there


def _parts(scheduler: object, seen: set[int]) -> Iterator[object]:
    """The scheduler and those that it holds, each once."""
    if id(scheduler) in seen or _optimizer_of(scheduler) is None:
        return
    seen.add(id(scheduler))
    yield scheduler
    for value in vars(scheduler).values():
        for inner in value if isinstance(value, list | tuple) else (value,):
            yield from _parts(inner, seen)


def _optimizer_of(scheduler: object) -> Optimizer | None:
    optimizer = getattr(scheduler, "optimizer", None)
    if not isinstance(optimizer, Optimizer) or isinstance(scheduler, Optimizer):
        return None
    return bare_optimizer(optimizer)


def _kept(old: Group, new: Group) -> Group:
    """What a group of the new optimizer takes over: its learning rate, and what it lacks."""
    return {
        key: deepcopy(value)
        for key, value in old.items()
        if key == "lr" or (key not in new and key not in ("params", "param_names"))
    }
