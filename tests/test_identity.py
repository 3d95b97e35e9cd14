"""At the target's own size with all kernels kept, the result is the target, bit for bit.

In eval mode and in train mode (same random state), in the forward pass and in the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale


class Shortcut(nn.Module):
    """A basic block with a strided projection."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.project = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.project(x))


class HardCodedView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, padding=2)
        self.fc = nn.Linear(4 * 12 * 12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.conv(x)), 2)
        y = F.dropout(y.view(-1, 4 * 12 * 12), 0.5, self.training)
        result: Tensor = self.fc(y)
        return result


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 2, 1)
        self.three = nn.Conv2d(3, 2, 3, padding="same")
        self.five = nn.Conv2d(3, 2, (1, 5), padding=(0, 2))
        self.pool = nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1).mean((2, 3))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, 2, 1)
        self.up = nn.ConvTranspose2d(4, 3, 2, 2)
        self.last = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.relu(self.down(x)))
        result: Tensor = self.last(torch.cat([x, y], 1))
        return result


class Auxiliary(nn.Module):
    """A second head in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.aux = nn.Linear(4 * 24 * 24, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.conv(x))
        out = self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))
        return (out, self.aux(y.flatten(1))) if self.training else out


class SharedConv(nn.Module):
    """One convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.relu(self.conv(x)))
        return result


class Functional(nn.Module):
    """No module is called: parameters alone, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Conv2d(3, 3, 3)  # the compiler looks for a convolution to learn the rank
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.unused = nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, padding=1).mean((-2, -1))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (lambda: nn.Sequential(Shortcut(3, 4, 2), Shortcut(4, 4, 1)), (3, 24, 24)),
    "hard-coded view": (HardCodedView, (3, 24, 24)),
    "inception": (Inception, (3, 24, 20)),
    "u-net": (UNet, (3, 24, 24)),
    "auxiliary head": (Auxiliary, (3, 24, 24)),
    "shared convolution": (SharedConv, (3, 24, 24)),
    "functional": (Functional, (3, 24, 24)),
    "audio": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 9, 4, 4), nn.ReLU(), nn.Dropout(), nn.Conv1d(4, 4, 3, dilation=2)
        ),
        (2, 64),
    ),
    "volume": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2), nn.ReLU(), nn.MaxPool3d(2)
        ),
        (1, 8, 8, 10),
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.Hardswish(), nn.Conv2d(6, 6, 5, 1, 2, groups=6)
        ),
        (3, 24, 24),
    ),
    "reflected": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect"), nn.AvgPool2d(3, 2, 1, True)
        ),
        (3, 24, 24),
    ),
    "convolution as FC": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout2d(), nn.Conv2d(4, 5, 22), nn.Flatten()
        ),
        (3, 24, 24),
    ),
    "adaptive pool and FC": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((5, 5)), nn.Flatten(), nn.Linear(100, 2)
        ),
        (3, 24, 24),
    ),
    "layer norm over the map": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm([4, 24, 24])),
        (3, 24, 24),
    ),
}

KEPT: Mapping[str, dict[str, Any]] = {
    "keep": {"keep": ["*"]},
    "empty mapping": {"kernels": {}},
    "callable": {"kernels": lambda site: site.kernel_size},
}


def assert_identical(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, tuple):
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_identical(one, other)
    else:
        assert found == expected


def assert_same_state(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def run(model: nn.Module, x: Tensor) -> Any:
    torch.manual_seed(7)
    return model(x)


def assert_is_the_target(target: nn.Module, shape: tuple[int, ...], **options: Any) -> None:
    size = shape[1:]
    small = fxscale.downscale(target, size, target_size=size, **options)
    x = torch.randn(2, *shape)
    assert_same_state(small.state_dict(), target.state_dict())
    assert_same_state(fxscale.upscale_state(small), target.state_dict())
    for mode in (False, True):  # train mode last: it moves running statistics
        assert_identical(run(small.train(mode), x), run(target.train(mode), x))
    assert_same_state(small.state_dict(), target.state_dict())
    assert small.plan.pad_operators == ()
    assert small.plan.max_drift == 0
    assert small.plan.mac_ratio == 1


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(name: str, kept: str) -> None:
    factory, shape = NETWORKS[name]
    assert_is_the_target(factory(), shape, **KEPT[kept])


@pytest.mark.parametrize("init", ["fan", "resample"])
def test_no_initialisation_touches_what_is_not_resized(init: str) -> None:
    factory, shape = NETWORKS["residual"]
    assert_is_the_target(factory(), shape, keep=["*"], init=init)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("resnet18", 64),
        ("mobilenet_v3_small", 64),
        ("squeezenet1_1", 64),
        ("densenet121", 64),
        ("googlenet", 224),  # its auxiliary heads read 14x14 maps
        ("alexnet", 224),
        ("shufflenet_v2_x0_5", 64),
        ("efficientnet_b0", 64),
    ],
)
def test_torchvision_networks(name: str, length: int) -> None:
    models = pytest.importorskip("torchvision.models")
    arguments = {"init_weights": False} if name == "googlenet" else {}
    target = models.get_model(name, weights=None, **arguments)
    assert_is_the_target(target, (3, length, length), keep=["*"])
