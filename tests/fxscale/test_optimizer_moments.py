"""Second moments through the transition: Adam and its like, against dense matrices, in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from fxscale.optimizer import upscale_optimizer
from fxscale.upscale import upscale_state
from tests.fxscale.hand_plans import kernel_map, plan_of_maps
from tests.fxscale.optimizing import networks, steps, train, zero_gradient_step


def bicubic_matrix(n_in: int, n_out: int) -> Tensor:
    """Independent of the library: torch's own interpolation of unit vectors."""
    unit = torch.eye(n_in, dtype=torch.float64)[:, None, :, None]
    return nn.functional.interpolate(unit, (n_out, 1), mode="bicubic")[:, 0, :, 0].T


def reference_map(name: str, value: Tensor, *, squared: bool) -> Tensor:
    """The linear map of `SmallNet`, or its elementwise square, as one dense matrix."""
    if name in ("conv.weight", "depthwise.weight"):
        n_in, n_out, planes = 2, 3, value.reshape(-1, 4)
    elif name == "fc.weight":
        n_in, n_out, planes = 4, 6, value.reshape(-1, 16)
    else:
        return value
    axis = bicubic_matrix(n_in, n_out) * n_in / n_out
    matrix = torch.kron(axis, axis)
    result = planes @ (matrix**2 if squared else matrix).T
    shape = (value.shape[0], -1) if name == "fc.weight" else (*value.shape[:2], n_out, n_out)
    return result.reshape(shape)


class ReferenceAdam:
    """Algorithm 1 of "Adam", 2014, algorithm 2 of "Decoupled weight decay", 2017, and amsgrad."""

    def __init__(self, net: nn.Module, *, lr: float, decay: float, decoupled: bool, ams: bool):
        self.parameters = {name: p.detach().clone() for name, p in net.named_parameters()}
        self.lr, self.decay, self.decoupled, self.ams, self.count = lr, decay, decoupled, ams, 0
        self.m = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.v, self.v_max = copy.deepcopy(self.m), copy.deepcopy(self.m)

    def step(self, gradients: dict[str, Tensor]) -> None:
        self.count += 1
        for name, w in self.parameters.items():
            g = gradients[name] if self.decoupled else gradients[name] + self.decay * w
            if self.decoupled:
                w -= self.lr * self.decay * w
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.99 * self.v[name] + 0.01 * g**2
            self.v_max[name] = torch.maximum(self.v_max[name], self.v[name])
            v = (self.v_max if self.ams else self.v)[name]
            m_hat = self.m[name] / (1 - 0.9**self.count)
            v_hat = v / (1 - 0.99**self.count)
            w -= self.lr * m_hat / (v_hat.sqrt() + 1e-8)

    def upscale(self) -> None:
        maps = ((self.parameters, False), (self.m, False), (self.v, True), (self.v_max, True))
        for state, squared in maps:
            for name in state:
                state[name] = reference_map(name, state[name], squared=squared)


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize(
    "options",
    [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}, {"foreach": False}],
    ids=str,
)
def test_adam_across_the_transition(kind: type[Adam], options: dict[str, Any]) -> None:
    small, target = networks()
    shared = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1, **options}
    reference = ReferenceAdam(
        small, lr=0.01, decay=0.1, decoupled=kind is AdamW, ams="amsgrad" in options
    )
    old = kind(small.parameters(), **shared)
    for _ in range(3):
        gradients = {name: torch.randn_like(p) for name, p in small.named_parameters()}
        train(small, old, gradients)
        reference.step(gradients)
    new = upscale_optimizer(old, small, target, kind(target.parameters(), **shared))
    target.load_state_dict(upscale_state(small))
    reference.upscale()
    for _ in range(3):
        gradients = {name: torch.randn_like(p) for name, p in target.named_parameters()}
        train(target, new, gradients)
        reference.step(gradients)
    for name, parameter in target.named_parameters():
        torch.testing.assert_close(
            parameter.detach(), reference.parameters[name], rtol=1e-8, atol=1e-10
        )


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(
    ("kind", "options", "squared"),
    [
        (NAdam, {"weight_decay": 0.1}, {"exp_avg_sq"}),
        (RAdam, {"decoupled_weight_decay": True}, {"exp_avg_sq"}),
        (RMSprop, {"momentum": 0.9}, {"square_avg"}),
        (RMSprop, {}, {"square_avg"}),
        (Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.2}, {"sum"}),
        (Adadelta, {"rho": 0.8}, {"square_avg", "acc_delta"}),
    ],
)
def test_other_optimizers_across_the_transition(
    kind: type[Optimizer], options: dict[str, Any], squared: set[str], foreach: bool
) -> None:
    """torch's own optimizer, given the state that dense matrices make, takes the same steps."""
    shared: dict[str, Any] = {"lr": 0.01, "foreach": foreach, **options}
    factory: Any = kind
    small, target = networks()
    old = factory(small.parameters(), **shared)
    steps(small, old)
    new = upscale_optimizer(old, small, target)
    target.load_state_dict(upscale_state(small))

    reference = copy.deepcopy(target)
    expected = factory(reference.parameters(), **shared)
    states = {
        index: {
            key: reference_map(name, value, squared=key in squared) if value.ndim else value
            for key, value in old.state[parameter].items()
        }
        for index, (name, parameter) in enumerate(small.named_parameters())
    }
    assert all(states.values())
    expected.load_state_dict(expected.state_dict() | {"state": states})
    for _ in range(3):
        gradients = {name: torch.randn_like(p) for name, p in target.named_parameters()}
        train(target, new, gradients)
        train(reference, expected, gradients)
    for name, parameter in target.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 5), (5, 7), (7, 11)])
def test_adam_keeps_the_size_of_its_step(before: int, after: int) -> None:
    shapes = [(64, 32, size, size) for size in (before, after)]
    small, target = (nn.ParameterDict({"w": torch.zeros(shape)}) for shape in shapes)
    small.plan = plan_of_maps(kernel_map("w", shapes[0], shapes[1]))
    old = Adam(small.parameters(), lr=0.01)
    moments = {
        "step": torch.tensor(50.0),
        "exp_avg": torch.randn(shapes[0]),
        "exp_avg_sq": torch.full(shapes[0], 1.0),
    }
    old.state[small["w"]] = moments
    new = upscale_optimizer(old, small, target)
    assert new.state[target["w"]]["step"] == 50
    sizes = [
        float(zero_gradient_step(net, optimizer)["w"].square().mean().sqrt())
        for net, optimizer in ((small, old), (target, new))
    ]
    correction = math.sqrt(1 - 0.999**51) / (1 - 0.9**51)
    assert sizes[0] == pytest.approx(0.01 * 0.9 / math.sqrt(0.999) * correction, rel=0.02)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)
