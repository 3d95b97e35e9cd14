"""`upscale_optimizer`: steps of the target against steps of the pre-train network, in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer, RMSprop

from fxscale.errors import FxscaleError, PlanMismatchError, StateMismatchError
from fxscale.optimizer import upscale_optimizer
from fxscale.resample import upscale_entry
from fxscale.upscale import upscale_state
from tests.fxscale.hand_plans import SmallNet, plan_of_maps
from tests.fxscale.optimizing import networks, steps, zero_gradient_step


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "maximize": True},
        {"momentum": 0.9, "foreach": True},
        {"momentum": 0.9, "fused": True},
        {"momentum": 0.0},
    ],
    ids=str,
)
def test_sgd_takes_the_upscaled_step(options: dict[str, Any]) -> None:
    small, target = networks()
    old = SGD(small.parameters(), lr=0.1, **options)
    steps(small, old)
    target.load_state_dict(upscale_state(small))
    new = upscale_optimizer(old, small, target, SGD(target.parameters(), lr=1.0, **options))

    expected = zero_gradient_step(small, old)
    actual = zero_gradient_step(target, new)
    maps = {m.key: m for m in small.plan.state}
    for name, step in actual.items():
        upscaled = upscale_entry(expected[name], maps[name])
        torch.testing.assert_close(step, upscaled, rtol=1e-10, atol=1e-14)
        assert bool(upscaled.any()) == (options["momentum"] > 0)


def test_sgd_step_of_bicubic_weights() -> None:
    small, target = networks()
    old = SGD(small.parameters(), lr=0.1, momentum=0.9)
    steps(small, old)
    new = upscale_optimizer(old, small, target, interpolation="bicubic")
    step = zero_gradient_step(target, new)["conv.weight"]
    before = zero_gradient_step(small, old)["conv.weight"]
    conv = next(m for m in small.plan.state if m.key == "conv.weight")
    torch.testing.assert_close(step, upscale_entry(before, conv, "bicubic"))


def test_groups_and_their_options_are_kept() -> None:
    small, target = networks()
    old = SGD(groups_of(small), lr=0.1, momentum=0.9)
    torch.optim.lr_scheduler.StepLR(old, 10)  # writes initial_lr
    old.param_groups[1]["lr"] = torch.tensor(0.03)
    new = SGD(list(reversed(groups_of(target))), lr=5.0, momentum=0.1, foreach=False)
    upscale_optimizer(old, small, target, new)
    first, second = reversed(new.param_groups)
    assert (first["lr"], first["initial_lr"], first["momentum"]) == (0.1, 0.1, 0.9)
    assert (first["weight_decay"], second["weight_decay"]) == (0, 0.01)
    assert second["lr"] == torch.tensor(0.03)
    assert second["lr"] is not old.param_groups[1]["lr"]
    assert first["foreach"] is False
    assert len(first["params"]) == 3


def groups_of(net: nn.Module) -> list[dict[str, Any]]:
    named = list(net.named_parameters())
    return [
        {"params": [p for n, p in named if "weight" not in n and n != "norm.bias"]},
        {
            "params": [p for n, p in named if "weight" in n or n == "norm.bias"],
            "weight_decay": 0.01,
        },
    ]


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_a_new_optimizer_is_made(kind: type[Optimizer]) -> None:
    small, target = networks()
    options: dict[str, Any] = {"momentum": 0.9} if kind is SGD else {"betas": (0.8, 0.9)}
    old = kind(groups_of(small), lr=0.1, **options)
    steps(small, old)
    new = upscale_optimizer(old, small, target)
    assert type(new) is kind
    explicit = kind(groups_of(target), lr=9.0, **options)
    upscale_optimizer(old, small, target, explicit)
    ours, theirs = new.state_dict(), explicit.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    torch.testing.assert_close(ours["state"], theirs["state"])
    assert all(name in new.defaults for name in options)


def test_named_parameters_in_groups() -> None:
    small, target = networks()
    old = SGD(small.named_parameters(), lr=0.1, momentum=0.9)
    steps(small, old)
    new = upscale_optimizer(old, small, target)
    names = [name for name, _ in target.named_parameters()]
    assert new.param_groups[0]["param_names"] == names


def test_state_is_laid_out_like_the_parameter_and_fresh() -> None:
    small, target = networks()
    target.to(memory_format=torch.channels_last)
    old = Adam(small.parameters())
    steps(small, old)
    new = upscale_optimizer(old, small, target)
    moment = new.state[target.conv.weight]["exp_avg"]
    assert moment.stride() == target.conv.weight.stride()
    new.state[target.conv.weight]["step"].add_(1)
    assert old.state[small.conv.weight]["step"] == 3
    bias = old.state[small.head.bias]["exp_avg"].clone()
    new.state[target.head.bias]["exp_avg"].zero_()
    assert torch.equal(old.state[small.head.bias]["exp_avg"], bias)


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_implementations_may_change(flag: str, device: str) -> None:
    if flag == "capturable" and device == "cpu":
        pytest.skip("torch: capturable needs an accelerator")
    small, target = SmallNet(8), SmallNet(12).to(device)
    old = Adam(small.parameters(), lr=0.01, foreach=False)
    steps(small, old)
    plain = upscale_optimizer(old, small, copy.deepcopy(target))
    new = Adam(target.parameters(), **{flag: True})
    upscale_optimizer(old, small, target, new)
    steps(target, new, 1)
    assert new.param_groups[0][flag]
    assert new.state[target.head.bias]["step"] == 4
    assert new.state[target.head.bias]["exp_avg"].device.type == device
    assert plain.param_groups[0]["lr"] == 0.01


def test_half_precision_state() -> None:
    small, target = SmallNet(8).bfloat16(), SmallNet(12)
    old = SGD(small.parameters(), lr=0.1, momentum=0.9)
    steps(small, old)
    new = upscale_optimizer(old, small, target)
    assert new.state[target.conv.weight]["momentum_buffer"].dtype == torch.float32


def test_frozen_tied_and_wrapped_parameters() -> None:
    small, target = networks()
    for net in (small, target):
        net.head.bias = net.norm.bias = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        net.conv.requires_grad_(False)
    small.plan = tie(small.plan)
    trained = [p for p in small.parameters() if p.requires_grad]
    old = SGD(trained, lr=0.1, momentum=0.9)
    steps(small, old)
    wrapped, compiled = nn.DataParallel(small), torch.compile(target)
    new = upscale_optimizer(old, wrapped, compiled)
    assert len(new.param_groups[0]["params"]) == len(trained)
    assert target.norm.bias in new.state
    assert target.conv.weight not in new.state


def tie(plan: Any) -> Any:
    """The plan with a `norm.bias` of the shape of `head.bias`."""
    head = next(m for m in plan.state if m.key == "head.bias")
    shapes = ("pretrain_shape", "target_shape", "pretrain_view", "target_view")
    maps = [
        type(m)(m.key, m.kind, *(getattr(head, s) for s in shapes)) if m.key == "norm.bias" else m
        for m in plan.state
    ]
    return plan_of_maps(*maps)


def test_an_optimizer_that_has_not_stepped() -> None:
    small, target = networks()
    new = Adam(target.parameters(), lr=1.0)
    steps(target, new)
    upscale_optimizer(Adam(small.parameters(), lr=0.5), small, target, new)
    assert not new.state
    assert new.param_groups[0]["lr"] == 0.5


def test_wrapped_optimizers() -> None:
    class Wrapper(SGD):
        def __init__(self, optimizer: Optimizer) -> None:
            self.optimizer = optimizer
            self.__dict__.update(optimizer.__dict__)

    small, target = networks()
    old = SGD(small.parameters(), lr=0.1, momentum=0.9)
    steps(small, old)
    new = SGD(target.parameters(), lr=1.0, momentum=0.5)
    upscale_optimizer(Wrapper(old), small, target, Wrapper(new))
    assert new.param_groups[0]["momentum"] == 0.9
    assert len(new.state) == len(old.state)


def all_but_conv(net: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in net.named_parameters() if name != "conv.weight"]


def test_networks_and_groups_that_do_not_match() -> None:
    small, target = networks()
    old = SGD(small.parameters(), lr=0.1, momentum=0.9)
    steps(small, old)
    new = SGD(target.parameters(), lr=1.0, momentum=0.5)
    before = copy.deepcopy(new.state_dict())
    with_stranger = copy.deepcopy(target)
    with_stranger.stranger = nn.Parameter(torch.ones(2))
    other = SmallNet(8)
    del other.plan
    conv = r"\['conv\.weight'\]"
    cases: list[tuple[str, tuple[Any, ...]]] = [
        (f"only the target's has {conv}", (sgd(all_but_conv(small)), small, target, new)),
        (f"train network's has {conv}, only", (old, small, target, sgd(all_but_conv(target)))),
        ("group 0 of the new optimizer matches no group", (old, small, target, grouped(target))),
        (
            r"group 0 of the target network's .* found 9 others",
            (old, small, target, sgd(networks()[1].parameters())),
        ),
        (r"group 0 of the pre-train network's optimizer", (new, small, target, new)),
        (r"'conv\.weight' of the target network: expected", (old, small, other, new)),
        ("'stranger' of the target network is not in the", (old, small, with_stranger, new)),
    ]
    for message, arguments in cases:
        with pytest.raises(StateMismatchError, match=message):
            upscale_optimizer(*arguments)
    with pytest.raises(PlanMismatchError, match="SmallNet carries no plan"):
        upscale_optimizer(new, target, small, old)
    assert new.state_dict() == before
    upscale_optimizer(old, small, target, new)  # the accepted neighbour


def sgd(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1)


def grouped(net: nn.Module) -> SGD:
    return SGD(groups_of(net), lr=0.1)


def test_optimizers_and_states_that_are_unknown_or_wrong() -> None:
    small, target = networks()
    old = SGD(small.parameters(), lr=0.1, momentum=0.9)
    new = SGD(target.parameters(), lr=1.0, momentum=0.5)
    with pytest.raises(
        FxscaleError, match=r"state of Adamax: expected one of torch\.optim, SGD, A"
    ):
        upscale_optimizer(Adamax(small.parameters()), small, target, new)
    centered = RMSprop(small.parameters(), centered=True)
    steps(small, centered)
    with pytest.raises(FxscaleError, match=r"found \['grad_avg'\] as well. Start the target with"):
        upscale_optimizer(centered, small, target)
    with pytest.raises(FxscaleError, match="another class: expected SGD, found Adam"):
        upscale_optimizer(old, small, target, Adam(target.parameters()))
    cases: list[tuple[str, dict[str, Any], type[FxscaleError]]] = [
        (r"'head\.bias': .* found \['other'\]", {"other": torch.ones(3)}, FxscaleError),
        (
            r"momentum_buffer of 'head\.bias': expected shape \(3,\), found \(2,\)",
            {"momentum_buffer": torch.ones(2)},
            StateMismatchError,
        ),
        (
            r"momentum_buffer of 'head\.bias': expected shape \(3,\), found float",
            {"momentum_buffer": 0.5},
            StateMismatchError,
        ),
        (
            r"momentum_buffer of 'head\.bias': found NaN",
            {"momentum_buffer": torch.full((3,), torch.nan)},
            StateMismatchError,
        ),
    ]
    for message, state, error in cases:
        old.state[small.head.bias] = state
        with pytest.raises(error, match=message):
            upscale_optimizer(old, small, target, new)
        assert not new.state
        assert new.param_groups[0]["lr"] == 1.0


def test_other_parameters_keep_their_place_and_state() -> None:
    small, target = networks()
    other = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = AdamW([{"params": [other], "lr": 0.5}, {"params": list(small.parameters())}])
    other.grad = torch.ones_like(other)
    steps(small, optimizer)
    before = copy.deepcopy(optimizer.state[other])
    new = upscale_optimizer(optimizer, small, target, others=[other])
    assert new.param_groups[0]["params"] == [other]
    assert new.param_groups[0]["lr"] == 0.5
    assert set(new.param_groups[1]["params"]) == set(target.parameters())
    assert new.state[other].keys() == before.keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(new.state[other][key], before[key]) for key in before)
    with pytest.raises(StateMismatchError, match="others"):
        upscale_optimizer(optimizer, small, target)
