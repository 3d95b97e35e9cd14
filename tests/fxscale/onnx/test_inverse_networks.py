"""The ONNX inverse equals `upscale_state` on networks that hold every kind of entry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import fxscale
from fxscale.onnx import upscale_with_onnx
from fxscale.resample import Interpolation
from tests.fxscale.onnx.states import assert_equal
from tests.passes import computed_weights

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def convolutions(d: int) -> nn.Sequential:
    """Plain, depthwise, strided and transposed ones, in `d` dimensions."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 1]
    return nn.Sequential(
        conv(2, 6, 5, padding=2),
        conv(6, 6, 3, padding=1, groups=6),
        conv(6, 8, 3, stride=2, padding=1),
        transposed(8, 3, 4, stride=2, padding=1),
    )


class Laid(nn.Module):
    """Parameters and statistics laid out over maps, and a head over several flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.LayerNorm([4, 12, 12])
        self.position = nn.Parameter(torch.randn(1, 1 + 36, 4))
        self.flat = nn.BatchNorm1d(4 * 36)
        self.fc = nn.Linear(4 * 36 + 4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(self.norm(self.conv(x)), 2)
        tokens = torch.cat([y.mean((2, 3))[:, None], y.flatten(2).mT], 1) + self.position
        large = self.flat(tokens[:, 1:].flatten(1))
        out: Tensor = self.fc(torch.cat([large, F.max_pool2d(y, 2).flatten(1)], 1))
        return out


def made_of_a_vector() -> nn.Sequential:
    """Two maps, one by the rows of a linear layer, one by a kernel over one pixel."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.ConvTranspose2d(4, 3, 6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 5 * 6 * 6),
        nn.Unflatten(1, (5, 6, 6)),
        nn.Conv2d(5, 2, 3, padding=1),
    )


class Tied(nn.Module):
    """Two convolutions that share a weight-normed kernel's parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv2d(2, 2, 3, padding=1))
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).relu()).mean((2, 3))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{network.__name__: network for network in computed_weights.ALL},
    **{f"convolutions in {d}-D": partial(convolutions, d) for d in (1, 2, 3)},
    "laid out": Laid,
    "made of a vector": made_of_a_vector,
    "tied": Tied,
    "gains along other axes": lambda: nn.Sequential(
        weight_norm(nn.Conv1d(2, 6, 7, padding=3)),
        weight_norm(nn.ConvTranspose1d(6, 2, 3, padding=1), dim=1),
    ),
}
KINDS = {
    "ScaledStandardised": {"kernel", "gain", "copy"},
    "NewWeightNorm": {"kernel", "gain", "copy"},
    "OldSpectralNorm": {"kernel", "direction", "copy"},
    "laid out": {"kernel", "interface", "feature", "copy"},
    "made of a vector": {"kernel", "unflattened", "feature", "copy"},
}


def compiled(name: str) -> tuple[nn.Module, fxscale.PretrainNetwork]:
    """The target, and its pre-train network with weights that are no upscaling's of any target."""
    model = NETWORKS[name]()
    computed = isinstance(model, computed_weights.Computed)
    # Their weights do not all say how many channels an image has.
    size = {"example_inputs": (torch.zeros(2, 2, 12, 12),)} if computed else {"target_size": 12}
    small = fxscale.downscale(model, 8, **size)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, small


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_upscale_state(name: str, interpolation: Interpolation) -> None:
    model, small = compiled(name)
    expected = fxscale.upscale_state(small, interpolation=interpolation)
    found = upscale_with_onnx(small, interpolation=interpolation)
    assert_equal(found, expected, torch.finfo(torch.float32).eps)
    model.load_state_dict(found)


@pytest.mark.parametrize("name", KINDS)
def test_the_networks_hold_every_kind(name: str) -> None:
    _, small = compiled(name)
    assert {m.kind for m in small.plan.state} == KINDS[name]
