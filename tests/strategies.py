"""Random small CNNs for property tests: valid at their own size by construction.

A network is drawn as a list of specifications (plain frozen data, so that a failing example prints
as something one can type), then built as a module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
GLOBAL_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}

IMAGE_CHANNELS = 2
CLASSES = 3


@dataclass(frozen=True)
class Conv:
    """Convolution, optional BatchNorm, ReLU."""

    out_channels: int
    kernel_size: tuple[int, ...]
    stride: int = 1
    padding: int | str = 0
    dilation: int = 1
    groups: int = 1
    norm: bool = False


@dataclass(frozen=True)
class Pool:
    kind: str
    kernel_size: int
    stride: int
    padding: int = 0
    ceil_mode: bool = False


@dataclass(frozen=True)
class Residual:
    """`x + body(x)`; the body keeps the shape, or a strided 1x1 convolution fits the shortcut."""

    body: tuple[Conv, ...]
    shortcut: Conv | None = None


@dataclass(frozen=True)
class Branches:
    """Parallel convolutions over one input, concatenated along channels; one may be `x` itself."""

    branches: tuple[tuple[Conv, ...], ...]


Layer = Conv | Pool | Residual | Branches


@dataclass(frozen=True)
class Spec:
    """A network: layers, a head, its own image size and the pre-train size to ask for."""

    layers: tuple[Layer, ...]
    head: str
    target_size: tuple[int, ...]
    input_size: tuple[int, ...]


class ResidualBlock(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x) + self.shortcut(x)
        return result


class BranchBlock(nn.Module):
    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Network(nn.Module):
    """The module that a `Spec` describes; weights depend on the spec alone."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        rank = len(spec.target_size)
        shape = (1, IMAGE_CHANNELS, *spec.target_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = []
            for layer in spec.layers:
                layers.append(build(layer, shape[1], rank))
                shape = shape_behind(layers[-1], shape)
            self.features = nn.Sequential(*layers)
            self.head = _head(spec.head, shape, rank)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.features(x))
        return result


def build(layer: Layer, channels: int, rank: int) -> nn.Module:
    """The module of one layer over `channels` channels."""
    if isinstance(layer, Conv):
        return _conv(layer, channels, rank)
    if isinstance(layer, Pool):
        if layer.kind == "max":
            arguments = (layer.kernel_size, layer.stride, layer.padding)
            return MAX_POOL[rank](*arguments, ceil_mode=layer.ceil_mode)
        return AVG_POOL[rank](layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
    if isinstance(layer, Residual):
        body = _chain(layer.body, channels, rank)
        fit = nn.Identity() if layer.shortcut is None else _conv(layer.shortcut, channels, rank)
        return ResidualBlock(body, fit)
    return BranchBlock([_chain(branch, channels, rank) for branch in layer.branches])


def _conv(conv: Conv, channels: int, rank: int) -> nn.Module:
    layers: list[nn.Module] = [
        CONV[rank](
            channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=not conv.norm,
        )
    ]
    if conv.norm:
        layers.append(NORM[rank](conv.out_channels))
    return nn.Sequential(*layers, nn.ReLU())


def _chain(convs: tuple[Conv, ...], channels: int, rank: int) -> nn.Module:
    layers = []
    for conv in convs:
        layers.append(_conv(conv, channels, rank))
        channels = conv.out_channels
    return nn.Sequential(*layers)


def _head(kind: str, shape: tuple[int, ...], rank: int) -> nn.Module:
    channels, size = shape[1], shape[2:]
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size.numel(), CLASSES))  # type: ignore[attr-defined]
    if kind == "conv":  # a convolution over the whole map, as a fully connected layer
        return nn.Sequential(CONV[rank](channels, CLASSES, tuple(size)), nn.Flatten())
    return nn.Sequential(GLOBAL_POOL[rank](1), nn.Flatten(), nn.Linear(channels, CLASSES))


def shape_behind(module: nn.Module, shape: tuple[int, ...]) -> torch.Size:
    """Shape of the module's output on an input of `shape`, found by running it."""
    was = module.training
    with torch.no_grad():
        result: Tensor = module.eval()(torch.zeros(shape))
    module.train(was)
    return result.shape


@st.composite
def specs(draw: st.DrawFn, ranks: tuple[int, ...] = (1, 2, 2, 2, 3)) -> Spec:
    """Networks of one to six layers with a pre-train size from half of the target's upwards."""
    rank = draw(st.sampled_from(ranks))
    longest = {1: 40, 2: 32, 3: 14}[rank]
    side = draw(st.integers(8, longest))
    square = draw(st.booleans())
    size = tuple(side if square else draw(st.integers(8, longest)) for _ in range(rank))
    layers: list[Layer] = []
    shape = (1, IMAGE_CHANNELS, *size)
    for _ in range(draw(st.integers(1, 6))):
        layer = draw(_layers(shape[1], rank))
        try:
            shape = shape_behind(build(layer, shape[1], rank), shape)
        except RuntimeError:  # the layer does not fit on so small a map
            continue
        layers.append(layer)
    if not any(isinstance(layer, Conv) for layer in layers):
        layers.insert(0, Conv(IMAGE_CHANNELS, (3,) * rank, padding=1))
    shrink = draw(st.sampled_from([5 / 7, 2 / 3, 0.5, 0.9]))
    small = tuple(max(1, round(n * shrink)) for n in size)
    head = draw(st.sampled_from(["pool", "linear", "conv"]))
    return Spec(tuple(layers), head, size, small)


@st.composite
def _convs(draw: st.DrawFn, channels: int, rank: int, *, keeps_size: bool = False) -> Conv:
    groups = draw(st.sampled_from([1, 1, 1, channels]))
    out = channels * draw(st.integers(1, 2)) if groups > 1 else draw(st.integers(1, 5))
    kernels = st.sampled_from([1, 3, 3, 5, 7] if rank < 3 else [1, 3])
    k = draw(kernels)
    uneven = rank > 1 and not keeps_size and draw(st.sampled_from([False, False, True]))
    kernel_size = tuple(draw(kernels) for _ in range(rank)) if uneven else (k,) * rank
    dilation = draw(st.sampled_from([1, 1, 1, 2]))
    norm = draw(st.booleans())
    if keeps_size:
        same = draw(st.sampled_from([dilation * (k - 1) // 2, "same"]))
        return Conv(out, kernel_size, 1, same, dilation, groups, norm)
    stride = draw(st.sampled_from([1, 1, 2, 3]))
    most = dilation * (min(kernel_size) - 1)
    padding = draw(st.sampled_from([0, most // 2, most // 2, most]))
    return Conv(out, kernel_size, stride, padding, dilation, groups, norm)


@st.composite
def _pools(draw: st.DrawFn, rank: int) -> Pool:
    # torch's avg_pool3d, alone, wants a map as long as its window even where it is padded.
    kinds = ["max", "average"] if rank < 3 else ["max"]
    kernel_size = draw(st.integers(2, 3))
    return Pool(
        draw(st.sampled_from(kinds)),
        kernel_size,
        draw(st.integers(1, 3)),
        draw(st.integers(0, kernel_size // 2)),
        draw(st.booleans()),
    )


@st.composite
def _residuals(draw: st.DrawFn, channels: int, rank: int) -> Residual:
    first = draw(_convs(channels, rank, keeps_size=True))
    body = [first]
    if draw(st.booleans()):
        body.append(draw(_convs(first.out_channels, rank, keeps_size=True)))
    out = draw(st.integers(1, 5))
    if draw(st.booleans()):
        return Residual((*body, Conv(channels, (1,) * rank)))
    stride = draw(st.sampled_from([1, 2]))
    last = Conv(out, (3,) * rank, stride, 1, norm=draw(st.booleans()))
    return Residual((*body, last), Conv(out, (1,) * rank, stride))


@st.composite
def _branches(draw: st.DrawFn, channels: int, rank: int) -> Branches:
    branches: list[tuple[Conv, ...]] = []
    for _ in range(draw(st.integers(2, 3))):
        chain: list[Conv] = []
        width = channels
        for _ in range(draw(st.integers(0, 2))):
            chain.append(draw(_convs(width, rank, keeps_size=True)))
            width = chain[-1].out_channels
        branches.append(tuple(chain))
    return Branches(tuple(branches))


def _layers(channels: int, rank: int) -> st.SearchStrategy[Layer]:
    return st.one_of(
        _convs(channels, rank),
        _convs(channels, rank),
        _pools(rank),
        _residuals(channels, rank),
        _branches(channels, rank),
    )
