"""Weights that are computed in the graph: resized, with the amplitude that Eq. 5 gives them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import fxscale
from fxscale.errors import UnsupportedModelError
from fxscale.plan import ScalePlan
from tests.passes import computed_weights as nets
from tests.passes.networks import assert_gradients_reach_every_parameter

TARGET, SMALL = 12, 8
IMAGES = torch.zeros(2, 2, TARGET, TARGET, dtype=torch.float64)


def resized(kernel: Tensor, interpolation: str) -> Tensor:
    """A 2x2 kernel as a 3x3 one: Eq. 5, by torch's own interpolation."""
    return F.interpolate(kernel, size=(3, 3), mode=interpolation) * 4 / 9


def compiled(cls: type[nets.Computed], **options: Any) -> tuple[nn.Module, fxscale.PretrainNetwork]:
    model = cls().double()
    return model, fxscale.downscale(model, SMALL, example_inputs=(IMAGES,), **options)


@pytest.mark.parametrize("cls", nets.ALL)
def test_at_the_same_size_the_network_is_the_target(cls: type[nets.Computed]) -> None:
    model = cls()
    images = torch.randn(2, 2, TARGET, TARGET)
    same = fxscale.downscale(model, TARGET, example_inputs=(images,), kernels={})
    for mode in (True, False):
        expected = model.train(mode)(images)
        torch.testing.assert_close(same.train(mode)(images), expected, rtol=0, atol=0)
    state = dict(model.state_dict())
    torch.testing.assert_close(fxscale.upscale_state(same), state, rtol=0, atol=0)


@pytest.mark.parametrize("cls", nets.ALL)
def test_both_modes_run_and_train_every_parameter(cls: type[nets.Computed]) -> None:
    model, small = compiled(cls)
    assert small.plan.convs[-1].pretrain_kernel_size == (2, 2)
    images = torch.randn(3, 2, SMALL, SMALL, dtype=torch.float64)
    for mode in (True, False):
        small.train(mode)
        small.zero_grad()
        assert small(images).shape == (3, 4)
        assert_gradients_reach_every_parameter(small, images)
    model.load_state_dict(fxscale.upscale_state(small))
    assert torch.isfinite(model.eval()(torch.randn(2, 2, TARGET, TARGET).double())).all()


@pytest.mark.parametrize("cls", nets.BY_HAND)
def test_the_weight_is_the_formulas_times_its_factor(cls: type[nets.Computed]) -> None:
    _, small = compiled(cls)
    images = torch.randn(2, 2, SMALL, SMALL, dtype=torch.float64)
    state = {k: v.clone() for k, v in small.state_dict().items()}
    (call,) = small.plan.conv("conv").calls
    (top, bottom), (left, right) = call.pretrain_padding
    weight = cls.weight(state) * cls.factor
    bias = cls.bias(state)
    expected = F.conv2d(F.pad(images, (left, right, top, bottom)), weight, bias).mean((2, 3))
    torch.testing.assert_close(small.eval()(images), expected)


def smooth_kernels(small: fxscale.PretrainNetwork) -> None:
    """Make all kernels constant over their taps."""
    with torch.no_grad():
        for value in small.state_dict().values():
            if value.ndim == 4 and value.shape[-1] == 2:
                value.copy_(value.mean((2, 3), keepdim=True).expand_as(value))
        for name, value in small.state_dict().items():
            if name.endswith(("0._v", "weight_v")) and value.ndim == 1:  # singular vectors
                weight = small.state_dict()[_kernel_of(name)].flatten(1)
                u, _, v = torch.linalg.svd(weight, full_matrices=False)
                small.state_dict()[name[:-1] + "u"].copy_(u[:, 0])
                value.copy_(v[0])


def _kernel_of(vector: str) -> str:
    return vector.replace("weight_v", "weight_orig").replace("0._v", "original")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("cls", [*nets.NORMALISED, *nets.LINEAR])
def test_smooth_kernels_arrive_with_the_amplitude_of_eq_5(
    cls: type[nets.Computed], interpolation: Any
) -> None:
    _, small = compiled(cls)
    smooth_kernels(small)
    before = cls.weight(small.state_dict()) * cls.factor
    after = cls.weight(fxscale.upscale_state(small, interpolation=interpolation))
    torch.testing.assert_close(after, resized(before, interpolation))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("cls", [*nets.WITH_GAIN, *nets.LINEAR])
def test_with_a_gain_every_kernel_arrives_as_eq_5_says(
    cls: type[nets.Computed], interpolation: Any
) -> None:
    _, small = compiled(cls)
    before = cls.weight(small.state_dict()) * cls.factor
    after = cls.weight(fxscale.upscale_state(small, interpolation=interpolation))
    torch.testing.assert_close(after, resized(before, interpolation))


@pytest.mark.parametrize("cls", nets.WITH_GAIN)
def test_a_fresh_network_keeps_the_norm_of_every_kernel(cls: type[nets.Computed]) -> None:
    model, small = compiled(cls)
    norms = [
        (cls.weight(state) * factor).flatten(1).norm(dim=1)
        for state, factor in ((model.state_dict(), 1.0), (small.state_dict(), cls.factor))
    ]
    torch.testing.assert_close(norms[1], norms[0])


@pytest.mark.parametrize("cls", nets.BY_HAND)
def test_upscaled_weights_come_back_where_init_resamples(cls: type[nets.Computed]) -> None:
    model, small = compiled(cls)
    trained = {k: v.clone() for k, v in small.state_dict().items()}
    model.load_state_dict(fxscale.upscale_state(small))
    again = fxscale.downscale(model, SMALL, example_inputs=(IMAGES,), init="resample")
    torch.testing.assert_close(cls.weight(again.state_dict()), cls.weight(trained))


@pytest.mark.parametrize("cls", [nets.NewSpectralNorm, nets.OldSpectralNorm])
def test_singular_vectors_stay_unit_vectors_of_the_kernel(cls: type[nets.Computed]) -> None:
    _, small = compiled(cls)
    state = fxscale.upscale_state(small)
    (key,) = (k for k in state if k.endswith(("0._v", "weight_v")))
    kernel, u = state[_kernel_of(key)].flatten(1), state[key[:-1] + "u"]
    small_kernel = small.state_dict()[_kernel_of(key)].flatten(1)
    small_v = small.state_dict()[key]
    assert state[key].norm() == pytest.approx(1)
    # Where v' is W' u up to its length, v is W u up to its length.
    exact = F.normalize(small_kernel.T @ u, dim=0)
    small.state_dict()[key].copy_(exact)
    again = fxscale.upscale_state(small)
    torch.testing.assert_close(again[key], F.normalize(kernel.T @ u, dim=0))
    assert small_v.shape == (8,)


@pytest.mark.parametrize("cls", nets.WITH_GAIN)
def test_gains_go_through_stages_and_plans(cls: type[nets.Computed]) -> None:
    model, small = compiled(cls)
    middle = fxscale.downscale(model, 10, target_size=TARGET, kernels={"conv": 3})
    plan = ScalePlan.from_json(small.plan.to_json())
    assert plan == small.plan
    state = fxscale.upscale_state(plan, small.state_dict())
    staged = fxscale.upscale_state(small, into=middle)
    middle.load_state_dict(staged)
    torch.testing.assert_close(fxscale.upscale_state(middle), state)


@pytest.mark.parametrize("cls", nets.WITH_GAIN)
def test_the_optimizers_state_of_a_gain_grows_as_the_gain_does(cls: type[nets.Computed]) -> None:
    model, small = compiled(cls)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    small(torch.randn(2, 2, SMALL, SMALL).double()).square().sum().backward()
    optimizer.step()
    (gain,) = (m for m in small.plan.state if m.kind == "gain")
    by_name = dict(small.named_parameters())
    growth = fxscale.upscale_state(small)[gain.key] / by_name[gain.key].detach()
    carried = fxscale.upscale_optimizer(optimizer, small, model)
    momentum = carried.state[dict(model.named_parameters())[gain.key]]["momentum_buffer"]
    before = optimizer.state[by_name[gain.key]]["momentum_buffer"]
    torch.testing.assert_close(momentum, before * growth)


def test_networks_with_a_gain_can_be_pickled_and_copied() -> None:
    _, small = compiled(nets.OldSpectralNorm)
    images = torch.randn(2, 2, SMALL, SMALL, dtype=torch.float64)
    with torch.no_grad():  # else the hook leaves a weight behind that torch cannot copy
        expected = small.eval()(images)
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        torch.testing.assert_close(twin.eval()(images), expected, rtol=0, atol=0)


class Shared(nn.Module):
    """One standardised kernel, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nets.StdConv(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.max_pool2d(self.conv(x), 2))
        return result.mean((2, 3))


def test_a_layer_that_is_called_twice_has_one_kernel() -> None:
    small = fxscale.downscale(Shared(), 16, target_size=24)
    (conv,) = small.plan.convs
    assert [call.target_input for call in conv.calls] == [(24, 24), (12, 12)]
    assert conv.pretrain_kernel_size == (2, 2)
    assert small(torch.randn(2, 2, 16, 16)).shape == (2, 2)


class Octave(nn.Module):
    """Four parts of one kernel, between maps of two sizes (Chen et al., 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 1)
        self.kernel = nn.Parameter(torch.randn(6, 6, 3, 3))

    def part(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, part_of(self.kernel, name), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        high, low = x[:, :4], F.avg_pool2d(x[:, 4:], 2)
        out = self.part("high_high", high) + F.interpolate(
            self.part("low_high", low), scale_factor=2
        )
        small = self.part("high_low", F.avg_pool2d(high, 2)) + self.part("low_low", low)
        return torch.cat([out.mean((2, 3)), small.mean((2, 3))], 1)


def part_of(kernel: Tensor, name: str) -> Tensor:
    source, result = name.split("_")
    channels = {"high": slice(4), "low": slice(4, None)}
    return kernel[channels[result], channels[source]]


class OctaveOfLayers(Octave):
    """The same of four layers."""

    def __init__(self) -> None:
        super().__init__()
        del self.kernel
        self.parts = nn.ModuleDict(
            {
                "high_high": nn.Conv2d(4, 4, 3, padding=1, bias=False),
                "low_high": nn.Conv2d(2, 4, 3, padding=1, bias=False),
                "high_low": nn.Conv2d(4, 2, 3, padding=1, bias=False),
                "low_low": nn.Conv2d(2, 2, 3, padding=1, bias=False),
            }
        )

    def part(self, name: str, x: Tensor) -> Tensor:
        result: Tensor = self.parts[name](x)
        return result


def in_layers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    kernel = state.pop("kernel")
    names = ("high_high", "low_high", "high_low", "low_low")
    return {**state, **{f"parts.{name}.weight": part_of(kernel, name) for name in names}}


def test_parts_of_one_kernel_are_what_layers_of_their_own_would_be() -> None:
    one, four = (
        fxscale.downscale(model.double(), 12, target_size=16)
        for model in (Octave(), OctaveOfLayers())
    )
    four.load_state_dict(in_layers(dict(one.state_dict())))
    images = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(one.eval()(images), four.eval()(images))
    upscaled = in_layers(dict(fxscale.upscale_state(one)))
    torch.testing.assert_close(upscaled, dict(fxscale.upscale_state(four)))
    assert upscaled["parts.low_low.weight"].shape == (2, 2, 3, 3)


class Sigmoid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.odd = nn.Conv2d(4, 4, 3, padding=1)

    def weight(self) -> Tensor:
        return torch.sigmoid(self.odd.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.conv(x), self.weight(), padding=1).mean((2, 3))


class Flipped(Sigmoid):
    def weight(self) -> Tensor:
        return self.odd.weight.flip(2)


class Cropped(Sigmoid):
    def weight(self) -> Tensor:
        return self.odd.weight[:, :, 1:]


class CausalMask(Sigmoid):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(3, 3).tril().expand(4, 4, 3, 3).clone())

    def weight(self) -> Tensor:
        return self.odd.weight * self.get_buffer("mask")


class OneTap(Sigmoid):
    """A factor that the walk from the kernel does not pass."""

    def weight(self) -> Tensor:
        return self.odd.weight * self.odd.weight.select(2, 1).sum()


class Rearranged(Sigmoid):
    def weight(self) -> Tensor:
        return torch.cat(self.odd.weight.chunk(2)[::-1])


class Pool(Sigmoid):
    def weight(self) -> Tensor:
        return self.odd.weight + F.avg_pool2d(self.odd.weight, 3, 1, 1)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Sigmoid, "a function that is not homogeneous"),
        (Flipped, "Tensor.flip: the axes of the kernel cannot be followed"),
        (Cropped, "at the node 'getitem'"),
        (CausalMask, "the buffer 'mask' differs from tap to tap"),
        (Pool, "changes a kernel's size"),
        (OneTap, "at the node 'select'"),
        (Rearranged, "the axes of the kernel cannot be followed"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_a_remedy_that_works(
    cls: type[Sigmoid], reason: str
) -> None:
    model = cls()
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        fxscale.downscale(model, SMALL, target_size=TARGET)
    name = caught.value.module
    assert f"keep=[{name!r}]" in str(caught.value)
    # The layer may be the network itself, so that every other pattern names the rest.
    small = fxscale.downscale(model, SMALL, target_size=TARGET, keep=[str(name)])
    assert small.conv.kernel_size == (2, 2)
    assert small(torch.randn(2, 3, SMALL, SMALL)).shape == (2, 4)
    model.load_state_dict(fxscale.upscale_state(small))


def test_a_hook_that_is_no_norm_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    prune.l1_unstructured(model[1], "weight", amount=0.5)
    with pytest.raises(UnsupportedModelError, match="its weight is computed in a hook"):
        fxscale.downscale(model, SMALL, target_size=TARGET)
    prune.remove(model[1], "weight")
    assert fxscale.downscale(model, SMALL, target_size=TARGET).plan.convs
