"""Remembered feature maps against the ones that torch computes."""

from __future__ import annotations

import itertools
import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxscale.passes.feature_maps import FeatureMapMode, Method
from tests.fxscale.checks import assert_compiles
from tests.passes.networks import Around

LAYERS = (
    nn.Conv2d(8, 8, 3),
    nn.Conv2d(8, 8, 3, bias=False),
    nn.Conv2d(8, 8, 3, padding=1),
    nn.Conv2d(8, 8, 3, padding="same"),
    nn.Conv2d(8, 8, 3, stride=2),
    nn.Conv2d(8, 8, 3, dilation=2),
    nn.Conv2d(8, 16, 3),
    nn.Conv2d(8, 8, 3, dtype=torch.bfloat16),
    nn.ConvTranspose2d(8, 8, 3, stride=2),
    nn.ConvTranspose2d(8, 8, 3, stride=2, output_padding=1),
    nn.AvgPool2d(3, 2),
    nn.AvgPool2d(3, 2, ceil_mode=True),
    nn.MaxPool2d(3, 2),
    nn.MaxPool2d(3, 2, ceil_mode=True),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((None, 3)),
    nn.Upsample(scale_factor=2),
    nn.Upsample(size=(5, 5)),
    nn.ZeroPad2d(1),
    nn.Flatten(),
    nn.Flatten(2),
    nn.Linear(12, 4),
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.Dropout(0.5),
    nn.Identity(),
)

CALLS: tuple[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], ...] = (
    (operator.mul, (2,), {}),
    (operator.mul, (2.0,), {}),
    (operator.truediv, (2,), {}),
    (operator.getitem, (0,), {}),
    (operator.getitem, (False,), {}),
    (operator.getitem, (None,), {}),
    (operator.getitem, (...,), {}),
    (operator.getitem, ((slice(None), 1),), {}),
    (operator.getitem, ((slice(None), slice(1)),), {}),
    (operator.getitem, ((slice(None), slice(1, 3)),), {}),
    (operator.getitem, ((slice(None), [0, 1]),), {}),
    (operator.gt, (0,), {}),
    (torch.flatten, (), {}),
    (torch.flatten, (1,), {}),
    (torch.flatten, (), {"start_dim": 2}),
    (torch.mean, (), {}),
    (torch.mean, ((2, 3),), {}),
    (torch.mean, ((2, 3),), {"keepdim": True}),
    (torch.mean, ((2, 3),), {"dtype": torch.float64}),
    (F.avg_pool2d, (3,), {}),
    (F.avg_pool2d, (3,), {"padding": 1}),
    (F.avg_pool2d, (3, 1), {}),
    (F.interpolate, (), {"scale_factor": 2}),
    (F.interpolate, (), {"scale_factor": 2.0, "mode": "bilinear"}),
    (F.interpolate, (), {"size": (5, 5)}),
    (F.pad, ((1, 1),), {}),
    (F.pad, ((1, 1, 1, 1),), {}),
    (F.dropout, (0.5, True), {}),
    (Method("permute"), (0, 2, 3, 1), {}),
    (Method("permute"), (0, 3, 2, 1), {}),
    (Method("reshape"), (2, -1), {}),
    (Method("reshape"), (-1,), {}),
    (Method("view"), (2, -1), {}),
    (Method("contiguous"), (), {}),
    (Method("contiguous"), (), {"memory_format": torch.channels_last}),
    (Method("to"), (torch.float64,), {}),
    (Method("to"), ("meta",), {}),
    (Method("float"), (), {}),
    (Method("sum"), (1,), {}),
    (Method("sum"), (1, True), {}),
    (Method("detach"), (), {}),
)
"""Functions and methods, with what follows the image."""


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape or (2, 8, 10, 12), dtype=dtype)


def facts(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.stride(), value.dtype, value.requires_grad


@pytest.fixture
def mode() -> FeatureMapMode:
    return FeatureMapMode()


@pytest.fixture
def fake(mode: FeatureMapMode) -> Callable[..., Tensor]:
    """`image` as a fake tensor of the mode."""
    return lambda *shape, **kwargs: mode.from_tensor(image(*shape, **kwargs))


Fake = Callable[..., Tensor]


def test_every_layer_gives_what_torch_gives(mode: FeatureMapMode) -> None:
    """All layers in one mode, each in both of its own modes: none answers for another."""
    plain = FakeTensorMode(allow_non_fake_inputs=True)
    shapes = ((2, 8, 10, 12), (3, 8, 10, 12), (2, 8, 12, 12))
    for layer, shape, dtype in itertools.product(
        LAYERS, shapes, (torch.float32, torch.bfloat16, torch.float32)
    ):
        x = image(*shape, dtype=dtype)
        outcomes = []
        for training in (True, False):
            layer.train(training)
            outcomes.append(outcome(mode.feature_map, layer, mode.from_tensor(x)))
            with plain:
                outcomes.append(outcome(layer, plain.from_tensor(x)))
        assert len(set(outcomes)) == 1, f"{layer} on {shape}: {outcomes}"


def outcome(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    try:
        return facts(function(*args, **kwargs))
    except (RuntimeError, ValueError) as error:  # weights of another dtype, no such view
        return (type(error),)


def test_every_function_gives_what_torch_gives(mode: FeatureMapMode) -> None:
    """Calls that differ in one argument each, twice over, in an order that nothing decides."""
    plain = FakeTensorMode(allow_non_fake_inputs=True)
    images = (
        image(2, 8, 10, 12),
        image(2, 8, 12, 12),
        image(2, 8, 10, 12, dtype=torch.bfloat16),
        image(2, 8, 10, 12).transpose(2, 3),
        image(2, 8, 10, 12).contiguous(memory_format=torch.channels_last),
    )
    calls = [(call, x) for call in CALLS for x in images] * 2
    random.Random(0).shuffle(calls)
    for (function, arguments, named), x in calls:
        found = outcome(mode.feature_map, function, mode.from_tensor(x), *arguments, **named)
        with plain:
            expected = outcome(function, plain.from_tensor(x), *arguments, **named)
        assert found == expected, f"{function} {arguments} {named} on {facts(x)}"


def test_parameters_and_lists_of_tensors(mode: FeatureMapMode, fake: Fake) -> None:
    wide, narrow = nn.Parameter(image(1, 8, 1, 12)), nn.Parameter(image(1, 8, 1, 1))
    assert mode.feature_map(operator.mul, fake(2, 8, 3, 1), wide).shape[-1] == 12
    assert mode.feature_map(operator.mul, fake(2, 8, 3, 1), narrow).shape[-1] == 1
    assert mode.feature_map(operator.mul, wide, 2).shape[-1] == 12
    assert mode.feature_map(operator.mul, narrow, 2).shape[-1] == 1
    both = mode.feature_map(torch.cat, [fake(), fake()], 1)
    assert both.shape[1] == 16
    assert mode.feature_map(torch.cat, [fake(), fake()], 1) is both
    assert mode.feature_map(torch.cat, [fake(), fake(2, 4, 10, 12)], 1).shape[1] == 12
    assert mode.feature_map(torch.cat, [fake(), fake()], dim=2).shape[2] == 20


def test_a_constant_answers_for_itself_alone(mode: FeatureMapMode, fake: Fake) -> None:
    """Its values may decide: another one of equal shape is computed, and so is a changed one."""
    first, second = torch.tensor([0, 1]), torch.tensor([2, 3])
    found = mode.feature_map(operator.getitem, fake(), first)
    assert mode.feature_map(operator.getitem, fake(), first) is found
    assert mode.feature_map(operator.getitem, fake(), second) is not found
    first.add_(1)
    assert mode.feature_map(operator.getitem, fake(), first) is not found


def test_known_contents_of_a_fake_tensor_are_not_forgotten(mode: FeatureMapMode) -> None:
    with mode:
        one, two = torch.tensor(1), torch.tensor(2)
    assert mode.feature_map(Method("item"), mode.feature_map(operator.mul, one, 3)) == 3
    assert mode.feature_map(Method("item"), mode.feature_map(operator.mul, two, 3)) == 6


def test_strides_are_told_apart(mode: FeatureMapMode, fake: Fake) -> None:
    layer = nn.Conv2d(8, 8, 3)
    contiguous = mode.feature_map(layer, fake())
    last = mode.feature_map(layer, fake().contiguous(memory_format=torch.channels_last))
    assert contiguous.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_an_equal_layer_is_not_computed_again(
    mode: FeatureMapMode, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mode.feature_map(nn.Conv2d(8, 8, 3), fake())
    monkeypatch.setattr(nn.Conv2d, "forward", None)
    assert mode.feature_map(nn.Conv2d(8, 8, 3).eval(), fake()) is first


def test_autocast_and_grad_mode_are_told_apart(mode: FeatureMapMode, fake: Fake) -> None:
    layer, x = nn.Conv2d(8, 8, 3), fake()
    assert mode.feature_map(layer, x).dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert mode.feature_map(layer, x).dtype == dtype
    with torch.no_grad():
        assert not mode.feature_map(layer, x).requires_grad
    assert mode.feature_map(layer, x).requires_grad


def test_on_the_meta_device(mode: FeatureMapMode) -> None:
    """Where large models are compiled; it knows no autocast."""
    layer = nn.Conv2d(8, 8, 3, device="meta")
    x = mode.from_tensor(torch.empty(2, 8, 10, 12, device="meta"))
    assert mode.feature_map(layer, x).device.type == "meta"


def hooked() -> nn.Module:
    layer = nn.ReLU()
    layer.register_forward_hook(lambda module, args, output: output[:, :2])
    return layer


def replaced() -> nn.Module:
    layer = nn.ReLU()
    layer.forward = lambda x: x[:, :2]  # type: ignore[method-assign]  # what is tested
    return layer


class Halved(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2]


@pytest.mark.parametrize("layer", [hooked(), replaced(), Halved()])
def test_only_plain_layers_are_remembered(
    mode: FeatureMapMode, fake: Fake, layer: nn.Module
) -> None:
    x = fake()
    assert mode.feature_map(nn.ReLU(), x).shape[1] == 8
    assert mode.feature_map(layer, x).shape[1] == 2
    assert mode.feature_map(nn.ReLU(), x).shape[1] == 8


def test_only_functions_of_torch_are_remembered(mode: FeatureMapMode, fake: Fake) -> None:
    x, channels = fake(), iter((1, 2))

    def first_channels(x: Tensor) -> Tensor:
        return x[:, : next(channels)]

    assert mode.feature_map(first_channels, x).shape[1] == 1
    assert mode.feature_map(first_channels, x).shape[1] == 2


def test_parametrised_layers_are_computed(mode: FeatureMapMode, fake: Fake) -> None:
    layer = parametrizations.weight_norm(nn.Conv2d(8, 4, 3))
    assert mode.feature_map(layer, fake()).shape[1] == 4
    assert not mode.feature_maps


def test_layers_of_several_arguments_are_computed(mode: FeatureMapMode, fake: Fake) -> None:
    layer = nn.Bilinear(4, 4, 2)
    assert mode.feature_map(layer, fake(3, 4), fake(3, 4)).shape == (3, 2)
    assert not mode.feature_maps


def test_values_without_tensors_pass_through(mode: FeatureMapMode) -> None:
    assert mode.feature_map(operator.add, 3, 4) == 7
    assert mode.feature_map(Method("upper"), "n") == "N"


def test_what_is_written_into_one_map_leaves_views_of_an_equal_one_alone() -> None:
    """Both are one fake tensor, and autograd objects to views whose base was written into."""

    def body(m: Any, x: Tensor) -> Tensor:
        first, second = m.first(x).split(2, dim=1)
        other = m.second(x)
        other += 1
        other.mul_(2)
        return torch.cat([m.next(first), m.next(m.relu(second)), other], 1)

    model = Around(
        body,
        first=nn.Conv2d(4, 4, 3, padding=1),
        second=nn.Conv2d(4, 4, 3, padding=1),
        next=nn.Conv2d(2, 2, 3, padding=1),
        relu=nn.ReLU(),
    )
    assert_compiles(model, 12, 8)
