from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from fxscale.models import overfeat_fast

# Weight shapes and feature map sizes of the paper's section 4 and of the OverFeat article.
WEIGHTS = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 96, 5, 5),
    "conv3": (512, 256, 3, 3),
    "conv4": (1024, 512, 3, 3),
    "conv5": (1024, 1024, 3, 3),
    "fc6": (3072, 1024 * 6 * 6),
    "fc7": (4096, 3072),
    "fc8": (1000, 4096),
}
SIZES = {
    "conv1": 56,
    "pool1": 28,
    "conv2": 24,
    "pool2": 12,
    "conv3": 12,
    "conv4": 12,
    "conv5": 12,
    "pool5": 6,
}


def test_layers_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        model = overfeat_fast()
    state = model.state_dict()
    expected = {f"{layer}.weight": shape for layer, shape in WEIGHTS.items()}
    expected |= {f"{layer}.bias": shape[:1] for layer, shape in WEIGHTS.items()}
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


def test_feature_maps_have_the_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        model = overfeat_fast()
        images = torch.empty(2, 3, 231, 231)
    sizes: dict[str, tuple[int, ...]] = {}
    for name, layer in model.named_children():
        if name in SIZES:
            layer.register_forward_hook(
                lambda _module, _inputs, output, name=name: sizes.update({name: output.shape[2:]})
            )
    assert model(images).shape == (2, 1000)
    assert sizes == {name: (size, size) for name, size in SIZES.items()}


def test_every_layer_but_the_last_is_followed_by_a_relu() -> None:
    model = overfeat_fast(width=1 / 32, num_classes=10)
    kinds = {name: type(layer).__name__ for name, layer in model.named_children() if "relu" in name}
    assert kinds == {f"relu{i}": "ReLU" for i in range(1, 8)}
    outputs: dict[str, torch.Tensor] = {}
    for name, layer in model.named_children():
        layer.register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.update({name: output})
        )
    logits = model(torch.randn(2, 3, 231, 231))
    for i in range(1, 8):
        assert outputs[f"relu{i}"].min() >= 0
    assert outputs["fc8"] is logits
    assert logits.min() < 0


def test_paper_init_is_uniform_within_one_over_root_n() -> None:
    model = overfeat_fast(width=1 / 8)
    for name, layer in model.named_children():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        bound = 1 / sqrt(layer.weight[0].numel())
        weights = layer.weight.detach().double().flatten()
        assert weights.abs().max() <= bound, name
        assert weights.abs().max() > 0.99 * bound, name
        # A uniform variable on [-b, b] has variance b²/3; 5 standard errors of its estimate.
        error = bound**2 * sqrt(4 / 45 / weights.numel())
        assert abs(weights.pow(2).mean() - bound**2 / 3) < 5 * error, name
        assert 0 < layer.bias.abs().max() <= bound, name


def test_he_init_has_variance_two_over_n() -> None:
    model = overfeat_fast(width=1 / 4, init="he")
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            n = layer.weight[0].numel()
            variance = layer.weight.detach().double().pow(2).mean()
            error = (2 / n) * sqrt(2 / layer.weight.numel())
            assert abs(variance - 2 / n) < 5 * error, name
            assert not layer.bias.any(), name


def test_dropout_stands_in_front_of_fc6_and_fc7_and_is_off_by_default() -> None:
    assert [overfeat_fast(width=1 / 32).get_submodule(f"dropout{i}").p for i in (6, 7)] == [0, 0]
    model = overfeat_fast(width=1 / 32, dropout=0.5)
    assert [model.get_submodule(f"dropout{i}").p for i in (6, 7)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0.0}, "width must be positive, found 0.0"),
        ({"init": "xavier"}, r"init must be one of \['he', 'paper'\], found 'xavier'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overfeat_fast(**arguments)
