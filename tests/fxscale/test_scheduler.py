"""`move_scheduler`: rates after a move against those of a run that never moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as lr
from torch.optim.swa_utils import SWALR

from fxscale.errors import FxscaleError, StateMismatchError
from fxscale.optimizer import upscale_optimizer
from fxscale.scheduler import move_scheduler
from tests.fxscale.hand_plans import SmallNet

Make = Callable[[Optimizer], Any]
STEPS = 12
LOSSES = [1.0, 0.8, 0.9, 0.9, 0.9, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]


def sequential(optimizer: Optimizer) -> Any:
    parts = [lr.LinearLR(optimizer, 0.1, total_iters=4), lr.ExponentialLR(optimizer, 0.7)]
    return lr.SequentialLR(optimizer, parts, milestones=[4])


def chained(optimizer: Optimizer) -> Any:
    return lr.ChainedScheduler(
        [lr.ConstantLR(optimizer, 0.1, total_iters=5), lr.ExponentialLR(optimizer, 0.9)]
    )


def nested(optimizer: Optimizer) -> Any:
    return lr.ChainedScheduler([sequential(optimizer), lr.MultiStepLR(optimizer, [7])])


SCHEDULERS: dict[str, Make] = {
    "lambda": lambda o: lr.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (1 + e)]),
    "multiplicative": lambda o: lr.MultiplicativeLR(o, lambda e: 0.95),
    "multi-step": lambda o: lr.MultiStepLR(o, [2, 7]),
    "polynomial": lambda o: lr.PolynomialLR(o, 10, 2.0),
    "cosine": lambda o: lr.CosineAnnealingLR(o, STEPS),
    "restarts": lambda o: lr.CosineAnnealingWarmRestarts(o, 4),
    "one cycle": lambda o: lr.OneCycleLR(o, max_lr=[0.5, 0.1], total_steps=STEPS + 1),
    "cyclic": lambda o: lr.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "swa": lambda o: SWALR(o, swa_lr=0.01, anneal_epochs=6),
    "sequential": sequential,
    "chained": chained,
    "nested": nested,
    "plateau": lambda o: lr.ReduceLROnPlateau(o, patience=1, min_lr=[0.001, 0.02]),
}


def optimizer_over(net: nn.Module) -> Optimizer:
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return SGD([{"params": weights}, {"params": others, "lr": 0.05}], lr=0.2, momentum=0.9)


def step(net: nn.Module, optimizer: Optimizer, scheduler: Any, loss: float) -> list[float]:
    """What one epoch does; the rates afterwards."""
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    scheduler.step(*([loss] if isinstance(scheduler, lr.ReduceLROnPlateau) else []))
    return [float(group["lr"]) for group in optimizer.param_groups]


# torch's SequentialLR calls its parts with an epoch, which torch says is deprecated.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("carried", [True, False], ids=["carried", "fresh"])
@pytest.mark.parametrize("moved_after", [0, 1, 5])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_rates_are_those_of_a_run_that_never_moved(
    name: str, moved_after: int, carried: bool
) -> None:
    net = SmallNet(8)
    optimizer = optimizer_over(net)
    scheduler = SCHEDULERS[name](optimizer)
    expected = [step(net, optimizer, scheduler, loss) for loss in LOSSES]
    assert len({tuple(rates) for rates in expected}) > 1

    small, target = SmallNet(8), SmallNet(12)
    optimizer = optimizer_over(small)
    scheduler = SCHEDULERS[name](optimizer)
    found = [step(small, optimizer, scheduler, loss) for loss in LOSSES[:moved_after]]
    last = [group["lr"] for group in optimizer.param_groups]
    new = upscale_optimizer(optimizer, small, target) if carried else optimizer_over(target)
    move_scheduler(scheduler, new)
    assert [group["lr"] for group in new.param_groups] == last
    found += [step(target, new, scheduler, loss) for loss in LOSSES[moved_after:]]
    assert found == expected
    assert [group["lr"] for group in optimizer.param_groups] == last  # the old one is left alone


def test_state_of_a_moved_scheduler_loads_where_it_belongs() -> None:
    net, target = SmallNet(8), SmallNet(12)
    optimizer = optimizer_over(net)
    scheduler = SCHEDULERS["cosine"](optimizer)
    for loss in LOSSES[:3]:
        step(net, optimizer, scheduler, loss)
    new = optimizer_over(target)
    move_scheduler(scheduler, new)
    saved = scheduler.state_dict(), new.state_dict()
    rates = step(target, new, scheduler, 0.0)

    again = optimizer_over(target)
    resumed = SCHEDULERS["cosine"](again)
    again.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    assert step(target, again, resumed, 0.0) == rates


def test_tensor_rates_are_not_shared() -> None:
    old = SGD(SmallNet(8).parameters(), lr=torch.tensor(0.2))
    scheduler = lr.ExponentialLR(old, 0.5)
    new = SGD(SmallNet(12).parameters(), lr=torch.tensor(1.0))
    move_scheduler(scheduler, new)
    new.step()
    scheduler.step()
    assert float(new.param_groups[0]["lr"]) == pytest.approx(0.1)
    assert float(old.param_groups[0]["lr"]) == pytest.approx(0.2)


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["cosine", "plateau"])
def test_schedulers_of_timm(kind: str) -> None:
    scheduling = pytest.importorskip("timm.scheduler")
    rates = []
    for moved in (False, True):
        optimizer: Optimizer = AdamW(SmallNet(8).parameters(), lr=0.2)
        scheduler, _ = scheduling.create_scheduler_v2(
            optimizer, sched=kind, num_epochs=8, warmup_epochs=2, patience_epochs=0
        )
        scheduler.step(1, 0.5)
        if moved:
            optimizer = AdamW(SmallNet(12).parameters(), lr=5.0)
            move_scheduler(scheduler, optimizer)
        rates.append([])
        for epoch, metric in ((3, 0.5), (4, 0.9), (5, 0.4), (6, 0.3)):
            scheduler.step(epoch, metric)
            rates[-1].append(optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1


def test_moving_twice_to_the_same_optimizer_changes_nothing() -> None:
    optimizer = optimizer_over(SmallNet(8))
    scheduler = sequential(optimizer)
    before = [dict(group) for group in optimizer.param_groups]
    move_scheduler(scheduler, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in before]


def test_other_groups_are_refused_and_nothing_changes() -> None:
    optimizer = optimizer_over(SmallNet(8))
    scheduler = chained(optimizer)
    target = SmallNet(12)
    new = SGD(target.parameters(), lr=3.0)
    with pytest.raises(StateMismatchError, match=r"expected groups of \[\d+, \d+\] parameters"):
        move_scheduler(scheduler, new)
    assert scheduler.optimizer is optimizer
    assert new.param_groups[0]["lr"] == 3.0
    assert "initial_lr" not in new.param_groups[0]


def test_what_is_no_scheduler_is_refused() -> None:
    optimizer = SGD(SmallNet(8).parameters(), lr=0.1)
    with pytest.raises(FxscaleError, match="of one optimizer, found Linear of 0 optimizers"):
        move_scheduler(nn.Linear(1, 1), optimizer)
    with pytest.raises(FxscaleError, match="found SGD of 0"):
        move_scheduler(optimizer, optimizer)
    two = lr.StepLR(optimizer, 1)
    two.other = lr.StepLR(SGD(SmallNet(8).parameters(), lr=0.1), 1)  # type: ignore[attr-defined]
    with pytest.raises(FxscaleError, match="found StepLR of 2 optimizers"):
        move_scheduler(two, optimizer)
