"""Convolutions whose weight is computed, each alone in a small network, with the formula by hand.

Every class has `weight(state, factor)`: the weight that the convolution named `conv` must use, from
the entries of a state dict, times what the pre-train network multiplies it by.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

State = Mapping[str, Tensor]


class Computed(nn.Module):
    """A convolution over two channels, then a global average pool."""

    conv: nn.Module
    factor = 1.0
    """What the weight is multiplied by where a 3x3 kernel becomes 2x2."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result.mean((2, 3))

    @staticmethod
    def weight(state: State) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def bias(state: State) -> Tensor | None:
        return state.get("conv.bias", state.get("conv.bn.bias"))


def standardised(weight: Tensor, eps: float = 1e-12) -> Tensor:
    """Each output channel with mean 0 and variance 1."""
    mean = weight.mean((1, 2, 3), keepdim=True)
    variance = weight.var((1, 2, 3), keepdim=True, unbiased=False)
    return (weight - mean) / (variance + eps).sqrt()


def of_norm_one(weight: Tensor) -> Tensor:
    return weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()


class StdConv(nn.Conv2d):
    """As in BiT: a batch normalisation whose channels are the output channels."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            training=True,
            momentum=0.0,
            eps=1e-12,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Standardised(Computed):
    factor = 9 / 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = StdConv(2, 4, 3, padding=1)

    @staticmethod
    def weight(state: State) -> Tensor:
        return standardised(state["conv.weight"])


class VarMeanConv(nn.Conv2d):
    """Weight standardisation as it is written by hand."""

    def forward(self, x: Tensor) -> Tensor:
        v, m = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return F.conv2d(x, (self.weight - m) / torch.sqrt(v + 1e-12), self.bias, padding=1)


class VarMean(Standardised):
    def __init__(self) -> None:
        super().__init__()
        self.conv = VarMeanConv(2, 4, 3, padding=1)


class RowsConv(nn.Conv2d):
    """Weight standardisation over the rows of a matrix."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.view(self.weight.size(0), -1)
        rows = rows - rows.mean(dim=1, keepdim=True)
        rows = rows / (rows.var(dim=1, keepdim=True, unbiased=False) + 1e-12).sqrt()
        return F.conv2d(x, rows.view_as(self.weight), self.bias, self.stride, self.padding)


class Rows(Standardised):
    def __init__(self) -> None:
        super().__init__()
        self.conv = RowsConv(2, 4, 3, padding=1)


class ScaledStdConv(nn.Conv2d):
    """As in NFNets: standardised, times a gain over the square root of the fan-in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = self.weight[0].numel() ** -0.5
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-12,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class ScaledStandardised(Computed):
    factor = 3 / 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = ScaledStdConv(2, 4, 3, padding=1)

    @staticmethod
    def weight(state: State) -> Tensor:
        # 18 is the target's fan-in, which its constructor wrote down.
        return standardised(state["conv.weight"]) * state["conv.gain"] * 18**-0.5


class NewWeightNorm(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(nn.Conv2d(2, 4, 3, padding=1))

    @staticmethod
    def weight(state: State) -> Tensor:
        prefix = "conv.parametrizations.weight.original"
        return of_norm_one(state[f"{prefix}1"]) * state[f"{prefix}0"]


class OldWeightNorm(Computed):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv = torch.nn.utils.weight_norm(nn.Conv2d(2, 4, 3, padding=1))

    @staticmethod
    def weight(state: State) -> Tensor:
        return of_norm_one(state["conv.weight_v"]) * state["conv.weight_g"]


class NormConv(nn.Conv2d):
    """Weight norm written by hand, with one gain per output channel."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.g = nn.Parameter(torch.rand(self.out_channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, self.g.view(-1, 1, 1, 1) * self.weight / norm, self.bias, 1, 1)


class HandWeightNorm(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = NormConv(2, 4, 3, padding=1)

    @staticmethod
    def weight(state: State) -> Tensor:
        return of_norm_one(state["conv.weight"]) * state["conv.g"].reshape(-1, 1, 1, 1)


def of_spectral_norm_one(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return weight / (u @ weight.flatten(1) @ v)


class NewSpectralNorm(Computed):
    factor = 3 / 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.spectral_norm(nn.Conv2d(2, 4, 3, padding=1))

    @staticmethod
    def weight(state: State) -> Tensor:
        prefix = "conv.parametrizations.weight"
        return of_spectral_norm_one(
            state[f"{prefix}.original"], state[f"{prefix}.0._u"], state[f"{prefix}.0._v"]
        )


class OldSpectralNorm(Computed):
    factor = 3 / 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.utils.spectral_norm(nn.Conv2d(2, 4, 3, padding=1))

    @staticmethod
    def weight(state: State) -> Tensor:
        return of_spectral_norm_one(
            state["conv.weight_orig"], state["conv.weight_u"], state["conv.weight_v"]
        )


class MaskedConv(nn.Conv2d):
    """A weight without some of its connections between channels."""

    mask: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        mask = (torch.rand(self.weight.shape[:2]) < 0.7).float()[..., None, None]
        self.register_buffer("mask", mask.expand_as(self.weight).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, self.stride, self.padding)


class Masked(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = MaskedConv(2, 4, 3, padding=1)

    @staticmethod
    def weight(state: State) -> Tensor:
        return state["conv.weight"] * state["conv.mask"]


class FoldedConv(nn.Conv2d):
    """A kernel with the statistics of a batch normalisation folded into it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(self.out_channels)
        nn.init.uniform_(self.bn.weight, 0.5, 2.0)
        self.bn.running_var = torch.rand(self.out_channels) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        scale = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        return F.conv2d(x, self.weight * scale.reshape(-1, 1, 1, 1), self.bn.bias, padding=1)


class Folded(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = FoldedConv(2, 4, 3)

    @staticmethod
    def weight(state: State) -> Tensor:
        scale = state["conv.bn.weight"] / (state["conv.bn.running_var"] + 1e-5).sqrt()
        return state["conv.weight"] * scale.reshape(-1, 1, 1, 1)


class SumConv(nn.Conv2d):
    """A 3x3 and a 1x1 branch in one kernel, as in reparametrised blocks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.point = nn.Parameter(torch.randn(self.out_channels, self.in_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + F.pad(self.point, [1, 1, 1, 1])
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Sum(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = SumConv(2, 4, 3, padding=1)

    @staticmethod
    def weight(state: State) -> Tensor:
        weight = state["conv.weight"].clone()
        weight[:, :, 1, 1] += state["conv.point"][:, :, 0, 0]  # of two taps the second
        return weight


class SlicedConv(nn.Conv2d):
    """Some channels of a wider layer's weight, as in slimmable networks and octave convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return F.conv2d(x, self.weight[1:5, :2], self.bias[1:5], padding=1)


class Sliced(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = SlicedConv(3, 6, 3)

    @staticmethod
    def weight(state: State) -> Tensor:
        return state["conv.weight"][1:5, :2]

    @staticmethod
    def bias(state: State) -> Tensor | None:
        return state["conv.bias"][1:5]


class NarrowedConv(nn.Conv2d):
    """The same by other operators."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.narrow(0, 1, 4).index_select(1, torch.tensor([2, 0]))
        return F.conv2d(x, weight, padding=1)


class Narrowed(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = NarrowedConv(3, 6, 3, bias=False)

    @staticmethod
    def weight(state: State) -> Tensor:
        return state["conv.weight"][1:5, [2, 0]]


class JoinedConv(nn.Module):
    """Kernels of two parameters, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 2, 3, 3))
        self.second = nn.Parameter(torch.randn(3, 2, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, torch.cat([self.first, self.second]), padding=1)


class Joined(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = JoinedConv()

    @staticmethod
    def weight(state: State) -> Tensor:
        return torch.cat([state["conv.first"], state["conv.second"]])


class StandardisedPartConv(nn.Conv2d):
    """Channels of a standardised weight: whether standardised before or behind is one here."""

    def forward(self, x: Tensor) -> Tensor:
        v, m = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return F.conv2d(x, ((self.weight - m) / torch.sqrt(v + 1e-12))[:4], padding=1)


class StandardisedPart(Computed):
    factor = 9 / 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = StandardisedPartConv(2, 6, 3, bias=False)

    @staticmethod
    def weight(state: State) -> Tensor:
        return standardised(state["conv.weight"])[:4]


class Experts(nn.Module):
    """Kernels mixed by what the image holds, kept as rows of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 4 * 2 * 3 * 3) / 4)
        self.route = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = torch.matmul(torch.sigmoid(self.route(x.mean((2, 3)))), self.experts)
        weight = weight.view(n * 4, 2, 3, 3)
        y = F.conv2d(x.reshape(1, n * c, h, w), weight, padding=1, groups=n)
        return y.permute(1, 0, 2, 3).view(n, 4, y.shape[-2], y.shape[-1])


class Mixed(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 1)
        self.conv = Experts()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.first(x))


NORMALISED: tuple[type[Computed], ...] = (
    Standardised,
    VarMean,
    Rows,
    ScaledStandardised,
    NewWeightNorm,
    OldWeightNorm,
    HandWeightNorm,
    NewSpectralNorm,
    OldSpectralNorm,
    StandardisedPart,
)
WITH_GAIN: tuple[type[Computed], ...] = (
    ScaledStandardised,
    NewWeightNorm,
    OldWeightNorm,
    HandWeightNorm,
)
LINEAR: tuple[type[Computed], ...] = (Masked, Folded, Sliced, Narrowed, Joined)
BY_HAND: tuple[type[Computed], ...] = (*NORMALISED, *LINEAR, Sum)
ALL: tuple[type[Computed], ...] = (*BY_HAND, Mixed)
