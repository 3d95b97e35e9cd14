"""Remembered feature maps against the ones that torch computes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.utils.parametrizations as parametrizations
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxscale.passes.feature_maps import FeatureMapMode, feature_map

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


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape or (2, 8, 10, 12), dtype=dtype)


def facts(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.stride(), value.dtype, value.requires_grad


def test_every_layer_gives_what_torch_gives() -> None:
    """All layers in one mode, each in both of its own modes: none answers for another."""
    remembering = FeatureMapMode()
    shapes = ((2, 8, 10, 12), (3, 8, 10, 12), (2, 8, 12, 12))
    for layer, shape, dtype in itertools.product(
        LAYERS, shapes, (torch.float32, torch.bfloat16, torch.float32)
    ):
        plain = FakeTensorMode(allow_non_fake_inputs=True)
        outcomes = []
        for mode, call in ((plain, lambda layer, x: layer(x)), (remembering, feature_map)):
            for training in (True, False):
                layer.train(training)
                with mode:
                    try:
                        outcomes.append(facts(call(layer, image(*shape, dtype=dtype))))
                    except RuntimeError as error:  # of weights in another dtype
                        outcomes.append((type(error),))
        assert len(set(outcomes)) == 1, f"{layer} on {shape}: {outcomes}"


def test_strides_are_told_apart() -> None:
    layer = nn.Conv2d(8, 8, 3)
    with FeatureMapMode():
        contiguous = feature_map(layer, image())
        last = feature_map(layer, image().contiguous(memory_format=torch.channels_last))
    assert contiguous.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_an_equal_layer_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with FeatureMapMode():
        first = feature_map(nn.Conv2d(8, 8, 3), image())
        monkeypatch.setattr(nn.Conv2d, "forward", None)
        assert feature_map(nn.Conv2d(8, 8, 3).eval(), image()) is first


def test_autocast_and_grad_mode_are_told_apart() -> None:
    layer = nn.Conv2d(8, 8, 3)
    with FeatureMapMode():
        assert feature_map(layer, image()).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert feature_map(layer, image()).dtype == torch.bfloat16
        with torch.no_grad():
            assert not feature_map(layer, image()).requires_grad
        assert feature_map(layer, image()).requires_grad


def test_on_the_meta_device() -> None:
    """Where large models are compiled; it knows no autocast."""
    with FeatureMapMode():
        layer = nn.Conv2d(8, 8, 3, device="meta")
        found = feature_map(layer, torch.empty(2, 8, 10, 12, device="meta"))
    assert found.device.type == "meta"


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
def test_only_plain_layers_are_remembered(layer: nn.Module) -> None:
    with FeatureMapMode():
        assert feature_map(nn.ReLU(), image()).shape[1] == 8
        assert feature_map(layer, image()).shape[1] == 2
        assert feature_map(nn.ReLU(), image()).shape[1] == 8


def test_parametrised_layers_are_computed() -> None:
    layer = parametrizations.weight_norm(nn.Conv2d(8, 4, 3))
    mode = FeatureMapMode()
    with mode:
        assert feature_map(layer, image()).shape[1] == 4
    assert not mode.feature_maps


def test_several_arguments_and_other_modes_pass_through() -> None:
    layer = nn.Bilinear(4, 4, 2)
    with FeatureMapMode() as mode:
        assert feature_map(layer, image(3, 4), image(3, 4)).shape == (3, 2)
    assert not mode.feature_maps
    assert feature_map(nn.ReLU(), torch.ones(3)).sum() == 3.0
