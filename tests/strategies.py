"""Random small CNNs for property tests: valid at their own size by construction."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from tests.random_networks import (
    IMAGE_CHANNELS,
    MAPS,
    Branches,
    Conv,
    Gate,
    Halves,
    Layer,
    Pool,
    Residual,
    Skip,
    Spec,
    Up,
    build,
    shape_behind,
)

HEADS = ("pool", "linear", "conv", *MAPS, "two", "adaptive", "channels last")
DTYPES = (torch.float32, torch.float32, torch.float32, torch.float64, torch.bfloat16)


@st.composite
def specs(draw: st.DrawFn, ranks: tuple[int, ...] = (1, 2, 2, 2, 3)) -> Spec:
    """Networks of one to ten layers with a pre-train size from half of the target's upwards."""
    rank = draw(st.sampled_from(ranks))
    longest = {1: 64, 2: 36, 3: 14}[rank]
    side = draw(st.integers(8, longest))
    square = draw(st.booleans())
    size = tuple(side if square else draw(st.integers(8, longest)) for _ in range(rank))
    layers: list[Layer] = []
    shape = (1, IMAGE_CHANNELS, *size)
    for _ in range(draw(st.integers(1, 10))):
        layer = draw(_layers(shape[1], rank))
        if isinstance(layer, Skip) and min(shape[2:]) < 8:
            continue  # a map that was reduced to one pixel does not grow again
        try:
            behind = shape_behind(build(layer, shape[1], rank), shape)
        except RuntimeError:  # the layer does not fit on so small a map
            continue
        except ValueError:  # a normalisation over one pixel
            continue
        if behind.numel() == 0:
            continue  # torch lets a padded transposed convolution leave nothing
        if behind[2:].numel() > 2 * torch.Size(size).numel() or behind[1] > 24:
            continue  # small, so that many networks can be tried
        layers.append(layer)
        shape = behind
    if not any(isinstance(layer, Conv) for layer in layers):
        layers.insert(0, Conv(IMAGE_CHANNELS, (3,) * rank, padding=1))
    shrink = draw(st.sampled_from([5 / 7, 2 / 3, 0.5, 0.9]))
    small = tuple(max(1, round(n * shrink)) for n in size)
    head = draw(st.sampled_from(HEADS))
    # torch has no average pool over volumes in bfloat16 on the CPU.
    dtype = draw(st.sampled_from(DTYPES if rank < 3 else DTYPES[:-1]))
    return Spec(tuple(layers), head, size, small, dtype)


@st.composite
def _convs(draw: st.DrawFn, channels: int, rank: int, *, keeps_size: bool = False) -> Conv:
    divisors = [n for n in range(2, channels + 1) if channels % n == 0]
    groups = draw(st.sampled_from([1, 1, 1, *divisors]))
    out = groups * draw(st.integers(1, 2)) if groups > 1 else draw(st.integers(1, 5))
    kernels = st.sampled_from([1, 2, 3, 3, 3, 4, 5, 7, 9, 11] if rank < 3 else [1, 2, 3])
    k = draw(kernels)
    uneven = rank > 1 and not keeps_size and draw(st.sampled_from([False, False, True]))
    kernel_size = tuple(draw(kernels) for _ in range(rank)) if uneven else (k,) * rank
    dilation = draw(st.sampled_from([1, 1, 1, 2, 3]))
    norm = draw(st.sampled_from(["", "", "batch", "batch", "instance", "group"]))
    if keeps_size:
        odd = dilation * (k - 1) % 2 == 0
        same = draw(st.sampled_from([dilation * (k - 1) // 2, "same"])) if odd else "same"
        return Conv(out, kernel_size, 1, same, dilation, groups, norm)
    stride = draw(st.sampled_from([1, 1, 2, 3]))
    most = dilation * (min(kernel_size) - 1)
    padding = draw(st.sampled_from([0, most // 2, most // 2, most]))
    return Conv(out, kernel_size, stride, padding, dilation, groups, norm)


@st.composite
def _pools(draw: st.DrawFn, rank: int) -> Pool:
    kernel_size = draw(st.integers(2, 3))
    return Pool(
        draw(st.sampled_from(["max", "average"])),
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
    last = Conv(out, (3,) * rank, stride, 1, norm=draw(st.sampled_from(["", "batch"])))
    return Residual((*body, last), Conv(out, (1,) * rank, stride))


@st.composite
def _branches(draw: st.DrawFn, channels: int, rank: int) -> Branches:
    join = draw(st.sampled_from(["cat", "cat", "sum", "product"]))
    stride = draw(st.sampled_from([1, 1, 2]))
    branches: list[tuple[Conv, ...]] = []
    for _ in range(draw(st.integers(2, 4))):
        chain: list[Conv] = []
        width = channels
        for _ in range(draw(st.integers(0, 2))):
            chain.append(draw(_convs(width, rank, keeps_size=True)))
            width = chain[-1].out_channels
        if stride == 2:
            k = draw(st.sampled_from([1, 3]))
            chain.append(Conv(channels, (k,) * rank, 2, k // 2))
        elif join != "cat" and chain:
            chain.append(Conv(channels, (1,) * rank))
        branches.append(tuple(chain))
    return Branches(tuple(branches), join)


@st.composite
def _skips(draw: st.DrawFn, channels: int, rank: int) -> Skip:
    down = Conv(draw(st.integers(1, 4)), (draw(st.sampled_from([2, 3, 5])),) * rank, 2)
    down = Conv(down.out_channels, down.kernel_size, 2, (down.kernel_size[0] - 1) // 2)
    inner: list[Conv] = []
    for _ in range(draw(st.integers(0, 2))):
        width = (down, *inner)[-1].out_channels
        inner.append(draw(_convs(width, rank, keeps_size=True)))
    return Skip(
        down,
        tuple(inner),
        draw(st.sampled_from(["size", "nearest", "transposed"])),
        draw(st.sampled_from([2, 4])),
        draw(st.sampled_from(["cat", "sum", "product"])),
    )


@st.composite
def _ups(draw: st.DrawFn) -> Up:
    kernel_size = draw(st.integers(2, 4))
    padding = draw(st.integers(0, kernel_size // 2))
    return Up(draw(st.integers(1, 4)), kernel_size, padding, draw(st.integers(0, 1)))


@st.composite
def _halves(draw: st.DrawFn, channels: int, rank: int) -> Halves:
    k = draw(st.sampled_from([1, 3, 5]))
    norm = draw(st.sampled_from(["", "batch"]))
    return Halves(Conv(channels // 2, (k,) * rank, padding=k // 2, norm=norm))


def _layers(channels: int, rank: int) -> st.SearchStrategy[Layer]:
    return st.one_of(
        *([_halves(channels, rank)] if channels % 2 == 0 else []),
        _convs(channels, rank),
        _convs(channels, rank),
        _pools(rank),
        _residuals(channels, rank),
        _branches(channels, rank),
        _skips(channels, rank),
        st.builds(Gate, st.booleans()),
        _ups(),
    )
