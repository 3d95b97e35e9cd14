"""Small CNNs from specifications: plain frozen data, so that a failing example prints as something
one can type. `tests/strategies.py` draws them at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}

IMAGE_CHANNELS = 2
CLASSES = 3
MAPS = ("map", "decoder")
"""The heads that return a map."""


@dataclass(frozen=True)
class Conv:
    """Convolution, optional normalisation (`"batch"`, `"instance"`, `"group"`), ReLU."""

    out_channels: int
    kernel_size: tuple[int, ...]
    stride: int = 1
    padding: int | str = 0
    dilation: int = 1
    groups: int = 1
    norm: str = ""


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
    """Parallel convolutions over one input, joined by `"cat"` along channels, `"sum"` or
    `"product"`; one may be `x` itself."""

    branches: tuple[tuple[Conv, ...], ...]
    join: str = "cat"


@dataclass(frozen=True)
class Gate:
    """`x` times a sigmoid of its own global average (squeeze-excite), or of a one-channel map."""

    spatial: bool


@dataclass(frozen=True)
class Skip:
    """`x` beside what a strided convolution and `inner` make of it, enlarged again (U-Net).

    `up` is `"size"` (interpolation to the size of `x`), `"nearest"` (by a factor of 2) or
    `"transposed"` (a transposed convolution of kernel `kernel_size`, stride 2).
    """

    down: Conv
    inner: tuple[Conv, ...]
    up: str
    kernel_size: int = 2
    join: str = "cat"


@dataclass(frozen=True)
class Up:
    """Twice the size, by a transposed convolution; `output_padding` makes it a pixel longer."""

    out_channels: int
    kernel_size: int
    padding: int
    output_padding: int


@dataclass(frozen=True)
class Halves:
    """The halves of the channels, one of them convolved, times a map that is written in place."""

    body: Conv


Layer = Conv | Pool | Residual | Branches | Gate | Skip | Up | Halves


@dataclass(frozen=True)
class Spec:
    """A network: layers, a head, its own image size, the pre-train size to ask for, its dtype."""

    layers: tuple[Layer, ...]
    head: str
    target_size: tuple[int, ...]
    input_size: tuple[int, ...]
    dtype: torch.dtype = torch.float32


class ResidualBlock(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x) + self.shortcut(x)
        return result


def joined(maps: list[Tensor], join: str) -> Tensor:
    if join == "cat":
        return torch.cat(maps, 1)
    result = maps[0]
    for other in maps[1:]:
        result = result + other if join == "sum" else result * other
    return result


class BranchBlock(nn.Module):
    def __init__(self, branches: list[nn.Module], join: str) -> None:
        super().__init__()
        self.branches, self.join = nn.ModuleList(branches), join

    def forward(self, x: Tensor) -> Tensor:
        return joined([branch(x) for branch in self.branches], self.join)


class GateBlock(nn.Module):
    def __init__(self, channels: int, rank: int, *, spatial: bool) -> None:
        super().__init__()
        self.fit = CONV[rank](channels, 1 if spatial else channels, 1)
        self.spatial = spatial

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.spatial else x.mean(tuple(range(2, x.ndim)), keepdim=True)
        return x * torch.sigmoid(self.fit(y))


class SkipBlock(nn.Module):
    def __init__(self, skip: Skip, channels: int, rank: int) -> None:
        super().__init__()
        self.body = _chain((skip.down, *skip.inner), channels, rank)
        inner = (skip.down, *skip.inner)[-1].out_channels
        self.up, self.join = skip.up, skip.join
        arguments = (skip.kernel_size, 2, (skip.kernel_size - 2) // 2)
        self.grow: nn.Module = nn.Identity()
        if skip.up == "transposed":
            self.grow = TRANSPOSED[rank](inner, inner, *arguments)
        self.fit = CONV[rank](inner, channels, 1) if skip.join != "cat" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.grow(self.body(x))
        if self.up == "size":
            y = F.interpolate(y, size=x.shape[2:])
        elif self.up == "nearest":
            y = F.interpolate(y, scale_factor=2)
        return joined([x, self.fit(y)], self.join)


class HalvesBlock(nn.Module):
    def __init__(self, body: Conv, channels: int, rank: int) -> None:
        super().__init__()
        self.body = _conv(body, channels // 2, rank)
        self.fit = CONV[rank](channels, channels, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        weights = self.fit(x)
        weights += x
        return torch.cat([self.body(second), first], 1) * self.relu(weights)


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
            self.to(spec.dtype)

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
    if isinstance(layer, Gate):
        return GateBlock(channels, rank, spatial=layer.spatial)
    if isinstance(layer, Skip):
        return SkipBlock(layer, channels, rank)
    if isinstance(layer, Halves):
        return HalvesBlock(layer.body, channels, rank)
    if isinstance(layer, Up):
        arguments = (layer.kernel_size, 2, layer.padding, layer.output_padding)
        return TRANSPOSED[rank](channels, layer.out_channels, *arguments)
    return BranchBlock([_chain(branch, channels, rank) for branch in layer.branches], layer.join)


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
    if conv.norm == "batch":
        layers.append(NORM[rank](conv.out_channels))
    elif conv.norm == "instance":
        layers.append(INSTANCE_NORM[rank](conv.out_channels, affine=True))
    elif conv.norm == "group":
        layers.append(nn.GroupNorm(1, conv.out_channels))
    return nn.Sequential(*layers, nn.ReLU())


def _chain(convs: tuple[Conv, ...], channels: int, rank: int) -> nn.Module:
    layers = []
    for conv in convs:
        layers.append(_conv(conv, channels, rank))
        channels = conv.out_channels
    return nn.Sequential(*layers)


def _head(kind: str, shape: tuple[int, ...], rank: int) -> nn.Module:
    channels, size = shape[1], shape[2:]
    if kind == "map":  # a segmentation map
        return CONV[rank](channels, CLASSES, 1)
    if kind == "decoder":
        return Decoder(channels, size, rank)
    if kind == "two":
        return TwoHeads(channels, channels * size.numel(), rank)
    if kind == "adaptive":
        few = tuple(max(1, n // 2) for n in size)
        features = channels * torch.Size(few).numel()
        pool: nn.Module = ADAPTIVE_POOL[rank](few)
        return nn.Sequential(pool, nn.Flatten(), nn.Linear(features, CLASSES))
    if kind == "channels last":
        return ChannelsLast(channels, size)
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size.numel(), CLASSES))
    if kind == "conv":  # a convolution over the whole map, as a fully connected layer
        return nn.Sequential(CONV[rank](channels, CLASSES, tuple(size)), nn.Flatten())
    return nn.Sequential(ADAPTIVE_POOL[rank](1), nn.Flatten(), nn.Linear(channels, CLASSES))


class TwoHeads(nn.Module):
    """A fully connected interface, and a linear layer over the global average."""

    def __init__(self, channels: int, features: int, rank: int) -> None:
        super().__init__()
        self.interface = nn.Linear(features, CLASSES)
        self.pooled = nn.Linear(channels, CLASSES)
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pooled(x.mean(tuple(range(2, x.ndim))))
        result: Tensor = self.interface(x.view(-1, self.features)) + mean
        return result


class Decoder(nn.Module):
    """A map made of the global average, beside the map itself; another one, by a kernel."""

    def __init__(self, channels: int, size: tuple[int, ...], rank: int) -> None:
        super().__init__()
        self.made = nn.Linear(channels, 2 * torch.Size(size).numel())
        self.kernel = TRANSPOSED[rank](channels, CLASSES, size)
        self.last = CONV[rank](channels + 2, CLASSES, 1)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        made = self.made(pixel.flatten(1)).view(-1, 2, *self.size)
        result: Tensor = self.last(torch.cat((x, made), 1)) + self.kernel(pixel)
        return result


class ChannelsLast(nn.Module):
    """LayerNorm over the whole map, channels last, then a fully connected interface."""

    def __init__(self, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((*size, channels))
        self.interface = nn.Linear(torch.Size(size).numel() * channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        last = self.norm(x.permute(0, *range(2, x.ndim), 1))
        result: Tensor = self.interface(last.reshape(x.shape[0], -1))
        return result


def shape_behind(module: nn.Module, shape: tuple[int, ...]) -> torch.Size:
    """Shape of the module's output on an input of `shape`, found by running it."""
    was = module.training
    with torch.no_grad():
        result: Tensor = module.eval()(torch.zeros(shape))
    module.train(was)
    return result.shape
