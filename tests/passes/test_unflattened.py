"""Vectors that become feature maps: what a decoder begins with scales as the images do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from tests.passes.networks import (
    Around,
    annotated,
    assert_gradients_reach_every_parameter,
    assert_identical_at_its_own_size,
    assert_same_outputs,
)

View = Callable[[Tensor, int], Tensor]
VIEWS: dict[str, View] = {
    "view": lambda x, n: x.view(-1, 5, n, n),
    "view of the batch": lambda x, n: x.view(x.shape[0], 5, n, n),
    "reshape of a tuple": lambda x, n: torch.reshape(x, (-1, 5, n, n)),
    "unflatten": lambda x, n: x.unflatten(1, (5, n, n)),
    "open channels": lambda x, n: x.view(x.shape[0], -1, n, n),
    "channels last": lambda x, n: x.view(-1, n, n, 5).permute(0, 3, 1, 2),
    "activated": lambda x, n: x.relu().view(-1, 5, n, n),
    "width first": lambda x, n: x.view(-1, 5, n, n).transpose(2, 3),
}


class Decoder(nn.Module):
    """One vector an image, and a map of `size` pixels made of it."""

    def __init__(self, size: int, view: Callable[[Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.vector = nn.Linear(4, 6)
        self.spread = nn.Linear(6, 5 * size * size)
        self.view = view
        self.decoded = nn.Conv2d(5, 2, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        code = self.vector(self.conv(x).mean((2, 3)))
        decoded: Tensor = self.decoded(self.view(self.spread(code)))
        return decoded


@pytest.mark.parametrize("name", VIEWS)
def test_every_way_to_view_a_vector_as_a_map(name: str) -> None:
    view = VIEWS[name]
    model = Decoder(6, lambda x: view(x, 6))
    kept = {"conv": 3, "decoded": 3}
    small = fxscale.downscale(model, 8, target_size=12, kernels=kept)
    image = torch.randn(3, 3, 8, 8)
    assert_same_outputs(small, Decoder(4, lambda x: view(x, 4)), image)
    assert_gradients_reach_every_parameter(small, image)
    assert small.get_submodule("spread").out_features == 5 * 4 * 4
    assert_identical_at_its_own_size(model, 12)


def test_nn_unflatten_behind_a_batchnorm_of_features() -> None:
    def network(size: int) -> nn.Module:
        return Around(
            lambda m, x: m.decoder(x.mean((2, 3))),
            decoder=nn.Sequential(
                nn.Linear(4, 5 * size * size, bias=False),
                nn.BatchNorm1d(5 * size * size),
                nn.ReLU(),
                nn.Unflatten(1, (5, size, size)),
                nn.ConvTranspose2d(5, 2, 4, stride=2, padding=1),
            ),
        )

    small = fxscale.downscale(network(6), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, network(4), torch.randn(3, 3, 8, 8))
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 2, 8, 8)  # as large as its images


def test_a_resize_may_come_first() -> None:
    def network(size: int) -> nn.Module:
        return Around(
            lambda m, x: m.up(m.spread(x.mean((2, 3))).view(-1, 5, size, size)).mean(1),
            spread=nn.Linear(4, 5 * size * size),
            up=nn.Upsample(scale_factor=2),
        )

    small = fxscale.downscale(network(6), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, network(4), torch.randn(3, 3, 8, 8))


def test_a_function_with_a_parameter() -> None:
    class Functional(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.weight = nn.Parameter(torch.randn(5 * size * size, 4))
            self.bias = nn.Parameter(torch.randn(5 * size * size))
            self.decoded = nn.Conv2d(5, 2, 3, padding=1)
            self.size = size

        def forward(self, x: Tensor) -> Tensor:
            features = F.linear(self.conv(x).mean((2, 3)), self.weight, self.bias)
            decoded: Tensor = self.decoded(features.view(-1, 5, self.size, self.size))
            return decoded

    kept = {"conv": 3, "decoded": 3}
    small = fxscale.downscale(Functional(6), 8, target_size=12, kernels=kept)
    assert_same_outputs(small, Functional(4), torch.randn(3, 3, 8, 8))


def test_a_layer_that_is_called_twice_makes_two_maps_of_one_size() -> None:
    def network(size: int) -> nn.Module:
        def body(m: Any, x: Tensor) -> Tensor:
            pooled = x.mean((2, 3))
            maps = [m.spread(v).view(-1, 5, size, size) for v in (pooled, pooled.relu())]
            decoded: Tensor = m.decoded(maps[0]) + maps[1].mean(1, keepdim=True)
            return decoded

        return Around(
            body,
            spread=nn.Linear(4, 5 * size * size),
            decoded=nn.Conv2d(5, 2, 3, padding=1),
        )

    kept = {"conv": 3, "decoded": 3}
    small = fxscale.downscale(network(6), 8, target_size=12, kernels=kept)
    assert_same_outputs(small, network(4), torch.randn(3, 3, 8, 8))


def test_a_plane_of_a_label_beside_the_image() -> None:
    """As discriminators have it that are told the class."""

    class Told(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.plane = nn.Linear(10, size * size)
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.size = size

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            plane = self.plane(label).view(-1, 1, self.size, self.size)
            told: Tensor = self.conv(torch.cat([x, plane], 1))
            return told

    inputs = (torch.randn(2, 3, 12, 12), torch.randn(2, 10))
    small = fxscale.downscale(Told(12), 8, example_inputs=inputs, kernels={"conv": 3})
    by_hand = Told(8)
    by_hand.load_state_dict(small.state_dict())
    image, label = torch.randn(3, 3, 8, 8), torch.randn(3, 10)
    torch.testing.assert_close(small(image, label), by_hand(image, label))


@pytest.mark.parametrize("size", [16, 20, 24])
def test_an_autoencoder_returns_images_of_the_size_that_it_is_given(size: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(16 * 64, 10),
        nn.Linear(10, 16 * 64),
        nn.Unflatten(1, (16, 8, 8)),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
    )
    small = fxscale.downscale(model, size, target_size=32)
    assert small(torch.randn(3, 3, size, size)).shape == (3, 3, size, size)
    model.load_state_dict(fxscale.upscale_state(small))


def test_one_dimension() -> None:
    def network(size: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=1),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(4, 5 * size),
            nn.Unflatten(1, (5, size)),
            nn.Conv1d(5, 2, 3, padding=1),
        )

    small = fxscale.downscale(network(6), 8, target_size=12, kernels={"0": 3, "5": 3})
    assert_same_outputs(small, network(4), torch.randn(3, 2, 8))


# The weights --------------------------------------------------------------------------------------


def test_the_map_of_the_target_is_the_small_one_enlarged() -> None:
    """Rows are interpolated, one a pixel: so is what they make, whatever the vector."""
    model = Decoder(6, lambda x: x.view(-1, 5, 6, 6))
    small = fxscale.downscale(model, 8, target_size=12)
    code = torch.randn(7, 6)
    large = copy.deepcopy(model)
    large.load_state_dict(fxscale.upscale_state(small))
    weight, bias = small.get_parameter("spread.weight"), small.get_parameter("spread.bias")

    def enlarged(features: Tensor, mode: str) -> Tensor:
        return F.interpolate(features.view(-1, 5, 4, 4), (6, 6), mode=mode).flatten(1)

    expected = enlarged(code @ weight.T, "bicubic") + enlarged(bias[None], "bilinear")
    torch.testing.assert_close(large.spread(code), expected)


def test_fresh_rows_keep_their_variance() -> None:
    torch.manual_seed(0)
    model = Decoder(12, lambda x: x.view(-1, 5, 12, 12))
    small = fxscale.downscale(model, 8, target_size=12)
    before, after = model.spread.weight, small.get_parameter("spread.weight")
    assert float(after.detach().std() / before.detach().std()) == pytest.approx(1, abs=0.05)


def test_trained_rows_come_back_from_the_way_there_and_back() -> None:
    model = Decoder(12, lambda x: x.view(-1, 5, 12, 12))
    small = fxscale.downscale(model, 8, target_size=12)
    model.load_state_dict(fxscale.upscale_state(small))
    again = fxscale.downscale(model, 8, target_size=12, init="resample")
    torch.testing.assert_close(
        again.get_parameter("spread.weight"), small.get_parameter("spread.weight")
    )


# A transposed convolution over one pixel ----------------------------------------------------------


def dcgan(size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.ConvTranspose2d(4, 6, size),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1),
    )


def test_the_kernel_is_the_map() -> None:
    small = fxscale.downscale(dcgan(6), 8, target_size=12, kernels={"0": 3})
    assert_same_outputs(small, dcgan(4), torch.randn(3, 3, 8, 8))
    (conv,) = (conv for conv in small.plan.convs if conv.name == "2")
    assert (conv.pretrain_kernel_size, conv.calls[0].pretrain_output) == ((4, 4), (4, 4))


def test_its_map_is_enlarged_too() -> None:
    model = dcgan(6)
    small = fxscale.downscale(model, 8, target_size=12)
    model.load_state_dict(fxscale.upscale_state(small))
    pixel = torch.randn(3, 4, 1, 1)
    bias = small.get_parameter("2.bias")[:, None, None]
    made = small.get_submodule("2")(pixel) - bias
    expected = F.interpolate(made, (6, 6), mode="bicubic") + bias
    torch.testing.assert_close(model.get_submodule("2")(pixel), expected)


# What stays ---------------------------------------------------------------------------------------


def test_vectors_that_no_window_runs_over_stay() -> None:
    """The matrix of a spatial transformer, channels in groups, a kernel over features."""

    def body(m: Any, x: Tensor) -> Tensor:
        vector = m.vector(x.mean((2, 3)))
        theta = vector.view(-1, 2, 3)
        turned = F.grid_sample(x, F.affine_grid(theta, x.shape, False), align_corners=False)
        return turned.mean((2, 3)) + m.mixed(vector[:, None]).mean(1)[:, :4]

    model = Around(body, vector=nn.Linear(4, 6), mixed=nn.Conv1d(1, 2, 3, padding=1), channels=4)
    small = fxscale.downscale(model, 8, target_size=12)
    assert {s.kind for s in small.plan.state if s.key.startswith("vector")} == {"copy"}
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_a_sequence_made_in_a_network_of_images_stays() -> None:
    model = Around(
        lambda m, x: m.sequence(m.spread(x.mean((2, 3))).view(-1, 5, 8)),
        spread=nn.Linear(4, 40),
        sequence=nn.Conv1d(5, 2, 3),
    )
    small = fxscale.downscale(model, 8, target_size=12)
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 2, 6)


def test_features_of_every_pixel_are_no_vector() -> None:
    model = Around(
        lambda m, x: m.spread(x.permute(0, 2, 3, 1)).mean((1, 2)).view(-1, 2, 4, 4),
        spread=nn.Linear(4, 32),
    )
    assert not any(axis.target == 4 for axis in annotated(model).outputs)
