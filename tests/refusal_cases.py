"""Small networks that are refused, one a reason, and the same networks after the remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.networks import Around
from tests.refusal_networks import (
    Doubler,
    Locked,
    OfRows,
    TwoImages,
    Weighted,
    pieces,
    pruned,
    scripted,
    written,
)

Build = Callable[[], nn.Module]
NAMED = "named"


@dataclass(frozen=True)
class Case:
    """A network that is refused and the same one mended; options of `downscale` for either.

    Without `mended` the network stays as it is, and the remedy is one of the options: `keep=NAMED`
    keeps the layer that the error's own remedy names.
    """

    refused: Build
    mended: Build | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    remedy: Mapping[str, Any] = field(default_factory=dict)


def body(function: Callable[[Any, Tensor], Any], **modules: nn.Module) -> Build:
    """A network of one convolution and `function(network, its feature map)`."""
    return lambda: Around(function, **modules)


def kernel(function: Callable[[Any], Tensor], *shape: int) -> Case:
    """A weight that cannot be followed: the layer is to be kept."""
    return Case(
        body(lambda m, x: m.next(x), next=Weighted(function, *shape)), remedy={"keep": NAMED}
    )


IMAGES = (torch.zeros(2, 3, 12, 12), torch.zeros(2, 3, 12, 12))

ARGUMENTS: dict[str, Case] = {
    "downscale needs a torch.nn.Module, found …": Case(lambda: Around, body(lambda m, x: x)),
    "the model is wrapped, a … inside …": Case(
        lambda: torch.compile(Around(lambda m, x: x)), body(lambda m, x: x)
    ),
    "keep=… is not a sequence of name patterns": Case(
        body(lambda m, x: x), options={"keep": 3}, remedy={"keep": ["conv"]}
    ),
    "leaf_modules=… is not a sequence of module classes": Case(
        body(lambda m, x: x), options={"leaf_modules": ["ReLU"]}, remedy={"leaf_modules": [nn.ReLU]}
    ),
    "… is compiled by TorchScript, which cannot be traced": Case(
        lambda: Around(lambda m, x: m.more(x), more=scripted(nn.Conv2d(4, 4, 1))),
        body(lambda m, x: m.more(x), more=nn.Conv2d(4, 4, 1)),
    ),
    "… has no convolution layer, of which the channels of its images could be read": Case(
        lambda: Weighted(lambda m: 2 * m.w, 4, 3, 3, 3),
        remedy={"example_inputs": (torch.zeros(2, 3, 12, 12),)},
    ),
    "the pattern … matches no convolution": Case(
        body(lambda m, x: x), options={"keep": ["stem"]}, remedy={"keep": ["conv"]}
    ),
    "kernels raises …: …": Case(
        body(lambda m, x: x),
        options={"kernels": lambda convolution: {"stem": 2}[convolution.name]},
        remedy={"kernels": lambda convolution: {"conv": 2}[convolution.name]},
    ),
    "kernels gives …, which is not a kernel size": Case(
        body(lambda m, x: x), options={"kernels": {"conv": "2"}}, remedy={"kernels": {"conv": 2}}
    ),
    "kernels gives … for a kernel of … with stride …": Case(
        body(lambda m, x: x), options={"kernels": {"conv": 4}}, remedy={"kernels": {"conv": 3}}
    ),
    "kernels=… is not a known policy": Case(
        body(lambda m, x: x), options={"kernels": "papers"}, remedy={"kernels": "paper"}
    ),
    "kernels maps …, which is not a name": Case(
        body(lambda m, x: x), options={"kernels": {3: 2}}, remedy={"kernels": {"*": 2}}
    ),
    "kernels shrinks axis …, which does not run over a feature map, or covers it whole": Case(
        body(lambda m, x: m.next(x), next=nn.Conv2d(4, 4, 12)),
        options={"kernels": {"next": 8}},
        remedy={"kernels": {"conv": 2}},
    ),
    "….forward needs the argument …, for which there is no value": Case(
        TwoImages, remedy={"example_inputs": IMAGES, "target_size": None}
    ),
    "example_inputs do not fit ….forward: …": Case(
        TwoImages,
        options={"example_inputs": (*IMAGES, 1), "target_size": None},
        remedy={"example_inputs": IMAGES},
    ),
    "no argument of the model is an image of shape (N, C, *size)": Case(
        OfRows,
        body(lambda m, x: x),
        options={"example_inputs": (torch.zeros(2, 432),), "target_size": None},
        remedy={"example_inputs": IMAGES[:1]},
    ),
    "concrete_args names …, which ….forward does not take": Case(
        TwoImages,
        options={"concrete_args": {"z": None}, "example_inputs": IMAGES, "target_size": None},
        remedy={"concrete_args": {}},
    ),
}

LAYERS: dict[str, Case] = {
    "its weight is computed in a hook": Case(pruned(for_good=False), pruned(for_good=True)),
    "its kernel is a constant of the code and covers the whole map": Case(
        body(lambda m, x: F.conv2d(x, torch.ones(4, 1, 12, 12), groups=4)),
        body(
            lambda m, x: F.conv2d(x, m.next.weight, groups=4),
            next=nn.Conv2d(4, 4, 12, groups=4).requires_grad_(False),
        ),
    ),
    "its weight is a constant of the code and belongs to one size of the map": Case(
        body(lambda m, x: F.linear(x.flatten(1), torch.ones(2, 576))),
        body(lambda m, x: F.linear(x.flatten(1), m.fc.weight), fc=nn.Linear(576, 2)),
    ),
    "its input has … dimensions, … with a batch are needed": Case(
        body(lambda m, x: m.next(x[0]), next=nn.Conv2d(4, 4, 3)),
        body(lambda m, x: m.next(x[0][None]), next=nn.Conv2d(4, 4, 3)),
    ),
    "its input channels are made of spatial axes": Case(
        body(lambda m, x: m.next(x.flatten(2).transpose(1, 2)), next=nn.Conv1d(144, 5, 1)),
        body(lambda m, x: m.next(x.flatten(2)).transpose(1, 2), next=nn.Linear(144, 5)),
    ),
    "it reads a flattened feature map with a weight that a hook computes": Case(
        body(lambda m, x: m.fc(x.flatten(1)), fc=nn.utils.spectral_norm(nn.Linear(576, 2))),
        body(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(576, 2)),
    ),
    "has layers that are not torch's": Case(
        body(
            lambda m, x: m.mix(x.flatten(2).mT),
            mix=nn.TransformerEncoder(Doubler(4, 2, 8), 2, None, False),
        ),
        body(lambda m, x: m.mix(x.flatten(2).mT), mix=Doubler(4, 2, 8)),
    ),
    "tokens without a batch, or made of pixels": Case(
        body(lambda m, x: m.mix(*[x.flatten(2)] * 3)[0], mix=nn.MultiheadAttention(144, 2)),
        body(
            lambda m, x: m.mix(*[x.flatten(2).mT] * 3)[0],
            mix=nn.MultiheadAttention(4, 2, batch_first=True),
        ),
    ),
    "adds a token of its own": Case(
        body(
            lambda m, x: m.mix(*[x.flatten(2).mT] * 3)[0],
            mix=nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True),
        ),
        body(
            lambda m, x: m.mix(*[x.flatten(2).mT] * 3)[0],
            mix=nn.MultiheadAttention(4, 2, batch_first=True),
        ),
    ),
    "a mask over pixels belongs to one size": Case(
        body(
            lambda m, x: m.mix(*[x.flatten(2).mT] * 3, attn_mask=torch.zeros(144, 144))[0],
            mix=nn.MultiheadAttention(4, 2, batch_first=True),
        ),
        body(
            lambda m, x: m.mix(*[x.flatten(2).mT] * 3)[0],
            mix=nn.MultiheadAttention(4, 2, batch_first=True),
        ),
    ),
    "its … is computed": Case(
        body(
            lambda m, x: F.layer_norm(x, (12, 12), m.norm.weight * 2),
            norm=nn.LayerNorm((12, 12)),
        ),
        body(lambda m, x: F.layer_norm(x, (12, 12), m.norm.weight), norm=nn.LayerNorm((12, 12))),
    ),
    "the model's own … has a name that torch.fx or fxscale keeps for itself": Case(
        body(lambda m, x: m.code(x), code=nn.ReLU()),
        body(lambda m, x: m.code_(x), code_=nn.ReLU()),
    ),
    "… cannot be copied: …": Case(
        body(lambda m, x: m.locked(x), locked=Locked(n for n in ())),
        body(lambda m, x: m.locked(x), locked=Locked(None)),
    ),
}


def added_up(x: Tensor) -> Tensor:
    total = torch.zeros(8)
    total += x.mean()
    return total


def written_over(total: Tensor, x: Tensor) -> Tensor:
    total.add_(x)
    return total


def filled_later(x: Tensor) -> Tensor:
    offset = torch.zeros(1)
    x = x + offset
    offset.fill_(1.0)
    return x + offset


OPERATORS: dict[str, Case] = {
    "forward draws random numbers that its graph would keep": Case(
        body(lambda m, x: x + torch.rand(1)), body(lambda m, x: x + torch.rand(x.shape[0], 1, 1, 1))
    ),
    "forward goes another way with a tensor than in its trace: it calls …, the trace …": Case(
        body(lambda m, x: x.relu() if x.dtype is torch.float32 else x),
        body(lambda m, x: x.relu() if x.dtype == torch.float32 else x),
    ),
    "forward can be traced, but not called on a fake tensor: …": Case(
        body(lambda m, x: x[:, 99] if x.dtype is torch.float32 else x),
        body(lambda m, x: x[:, 3] if x.dtype == torch.float32 else x),
    ),
    "forward changes … after it was used": Case(
        body(lambda m, x: filled_later(x)), body(lambda m, x: x + torch.ones(1))
    ),
    "… changes a constant of the code, and with it the next call": Case(
        body(lambda m, x: added_up(x)), body(lambda m, x: x.new_zeros(8) + x.mean())
    ),
    "… writes a feature map into a tensor that was made from sizes": Case(
        body(lambda m, x: written_over(torch.zeros(2, 4, *x.shape[2:]), x)),
        body(lambda m, x: written_over(x.new_zeros(2, 4, *x.shape[2:]), x)),
    ),
    "… runs over maps that lie one behind the other, …": Case(
        body(
            lambda m, x: m.next(torch.cat((x.flatten(2), F.max_pool2d(x, 2).flatten(2)), 2)),
            next=nn.MaxPool1d(2),
        ),
        body(
            lambda m, x: torch.cat(
                (F.max_pool2d(x, (1, 2)).flatten(2), F.max_pool2d(x, 2).flatten(2)), 2
            )
        ),
    ),
    "a spatial axis meets one that does not scale": Case(
        body(lambda m, x: m.fc(x.mean((2, 3))) + x.mean(1).flatten(1), fc=nn.Linear(4, 144)),
        body(lambda m, x: x.amax(1).flatten(1) + x.mean(1).flatten(1)),
    ),
    "a norm of order …": Case(
        body(lambda m, x: x.norm(0, dim=(2, 3))), body(lambda m, x: x.norm(1, dim=(2, 3)))
    ),
    "the dimension is left to torch": Case(
        body(lambda m, x: F.softmax(x)), body(lambda m, x: F.softmax(x, dim=1))
    ),
    "a product with a vector": Case(
        body(lambda m, x: torch.matmul(x.mean((2, 3)), torch.ones(4))),
        body(lambda m, x: torch.matmul(x.mean((2, 3)), torch.ones(4, 1))),
    ),
    "distances between pictures grow with their pixels": Case(
        body(lambda m, x: torch.cdist(x.flatten(2), x.flatten(2))),
        body(lambda m, x: torch.cdist(x.flatten(2).mT, x.flatten(2).mT)),
    ),
    "the diagonal of a feature map": Case(
        body(lambda m, x: torch.einsum("nchh->nch", x)), body(lambda m, x: x)
    ),
    "arguments without a name behind dim": Case(
        body(lambda m, x: x.std((2, 3), False)), body(lambda m, x: x.std((2, 3), unbiased=False))
    ),
    "puts copies of a feature map side by side": Case(
        body(lambda m, x: x.repeat(1, 1, 2, 1)), body(lambda m, x: x.repeat(1, 2, 1, 1))
    ),
    "repeats values unevenly or without a dimension": Case(
        body(lambda m, x: x.repeat_interleave(2)),
        body(lambda m, x: F.interpolate(x, scale_factor=2)),
    ),
    "repeats the pixels of a flattened map": Case(
        body(lambda m, x: x.flatten(2).repeat_interleave(2, 2)),
        body(lambda m, x: F.interpolate(x, scale_factor=(1, 2)).flatten(2)),
    ),
    "cannot view … as …": Case(
        body(lambda m, x: x.reshape(2, 18, 32)), body(lambda m, x: x.reshape(2, 2, -1))
    ),
    "resizes a dimension that is not one spatial axis": Case(
        body(lambda m, x: F.interpolate(x.flatten(2), scale_factor=2)),
        body(lambda m, x: F.interpolate(x, scale_factor=2).flatten(2)),
    ),
    "takes apart a dimension that is not one spatial axis": Case(
        body(lambda m, x: F.pixel_unshuffle(x.flatten(2)[:, :, None].expand(-1, -1, 2, -1), 2)),
        body(lambda m, x: F.pixel_unshuffle(x, 2)),
    ),
    "shuffles into a dimension that is not one spatial axis": Case(
        body(lambda m, x: F.pixel_shuffle(x.flatten(2)[:, :, None], 2)),
        body(lambda m, x: F.pixel_shuffle(x, 2)),
    ),
    "writes one feature map into another of its own origin": Case(
        body(lambda m, x: written(x, F.interpolate(F.max_pool2d(x, 2), scale_factor=2)[:, :2])),
        body(lambda m, x: x + F.interpolate(F.max_pool2d(x, 2), scale_factor=2)),
    ),
    "indexes a tensor with a tensor": Case(
        body(lambda m, x: x[:, :, torch.tensor([1, 3])]), body(lambda m, x: x[:, :, ::2])
    ),
    "divides the feature map inside … at …:…": Case(
        body(lambda m, x: pieces(x, [100, 80])), body(lambda m, x: pieces(x, [144, 36]))
    ),
    "takes patches of something else than a feature map": Case(
        body(lambda m, x: F.unfold(x.flatten(2)[:, :, None], (1, 3))),
        body(lambda m, x: F.unfold(x, (1, 3))),
    ),
    "folds something else than patches of a map": Case(
        body(lambda m, x: F.fold(x.flatten(1)[:, :, None], 12, 12)),
        body(lambda m, x: F.fold(F.unfold(x, 2, stride=2), 12, 2, stride=2)),
    ),
    "folds onto a map of … pixels, which no patches were taken from": Case(
        body(lambda m, x: F.fold(x.flatten(2), 24, 2, stride=2)),
        body(lambda m, x: F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2)),
    ),
    "… counts pixels in whole numbers (…), which cannot keep their amplitude on a smaller "
    "map": Case(
        body(lambda m, x: (x > 0).sum((2, 3))), body(lambda m, x: (x > 0).float().sum((2, 3)))
    ),
    "a tensor is created with a size that is computed from a map's": Case(
        body(lambda m, x: x + x.new_zeros(2, 4, x.shape[2] // 1, 12)),
        body(lambda m, x: x + torch.zeros_like(x)),
    ),
}

KERNELS: dict[str, Case] = {
    "forward writes into its weight": Case(
        body(lambda m, x: (m.next.weight.data.mul_(0.5), m.next(x))[1], next=nn.Conv2d(4, 4, 3)),
        remedy={"keep": NAMED},
    ),
    "… changes a kernel's size, or joins kernels of different layers": kernel(
        lambda m: m.w + F.avg_pool2d(m.w, 3, 1, 1)
    ),
    "the kernel would become …, but its weight is computed in a way that cannot be followed: at "
    "the node …, …": kernel(lambda m: m.w.cos()),
    "a sum of tensors that scale differently with the size of a kernel": kernel(
        lambda m: m.w + m.w.square()
    ),
    "a kernel goes through a function that is not homogeneous": kernel(lambda m: m.w.sigmoid()),
    "kernels are normalised over groups": kernel(lambda m: F.instance_norm(m.w)),
    "kernels are normalised by stored statistics, or shifted": kernel(
        lambda m: F.batch_norm(m.w, m.mean, m.var)
    ),
    "a reduction over one of several axes of a kernel": kernel(
        lambda m: m.w / m.w.norm(dim=3, keepdim=True)
    ),
    "a part of a kernel": kernel(lambda m: m.w * m.w[:, :, 0].sum()),
    "kernels that scale differently with their size, joined": kernel(
        lambda m: torch.cat([m.w[:2], (m.w * m.w)[2:]])
    ),
    "a norm per tap of the kernel": kernel(lambda m: torch._weight_norm(m.w, m.gain, 0)),
    "the axes of the kernel cannot be followed from a parameter to here": kernel(
        lambda m: F.interpolate(m.w, scale_factor=2)
    ),
    "no parameter holds the kernel": kernel(lambda m: m.even * m.w.mean()),
    "nothing is known of what this does to a kernel's amplitude": kernel(
        lambda m: torch.where(m.w > 0, m.w, -m.w)
    ),
    "the buffer … differs from tap to tap and belongs to one kernel size": kernel(
        lambda m: m.w * m.mask
    ),
    "a constant of the code belongs to one kernel size": kernel(
        lambda m: m.w * torch.ones(4, 4, 3, 3)
    ),
    "pads a kernel of several taps": kernel(lambda m: F.pad(m.w, (1, 1)), 4, 4, 3, 1),
    "pads a kernel off its centre": kernel(lambda m: F.pad(m.w, (0, 2, 0, 2)), 4, 4, 1, 1),
}
