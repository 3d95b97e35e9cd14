"""An oracle for sampling grids: run a network over coordinates instead of pixels.

Along one axis, every map is the list of image coordinates at which its pixels look. Convolutions
and pools average them (uniform kernels, float64); paddings go on as the coordinates do, crops cut.
Where maps meet, the one behind the most windows counts, as its pixels are the block's result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Looks:
    """Where the pixels of one axis look, and behind how many windows."""

    places: Tensor
    depth: int


def coordinates(network: fx.GraphModule, length: int, axis: int) -> dict[str, Tensor]:
    """Coordinates of every node's map along spatial axis `axis` (0 or 1), by the node's name."""
    looks: dict[fx.Node, Looks] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder":
            looks[node] = Looks(torch.arange(length, dtype=torch.float64), 0)
        elif node.op != "output":
            sources = [looks[source] for source in node.all_input_nodes]
            deepest = max(sources, key=lambda source: source.depth)
            looks[node] = _through(network, node, deepest, axis)
    return {node.name: value.places for node, value in looks.items()}


def off_centre(places: Tensor, length: int) -> float:
    """Distance of the map's centre from the image's, in pixels of the map."""
    step = float(places[1] - places[0])
    return float(places.mean() - (length - 1) / 2) / step


def _through(network: fx.GraphModule, node: fx.Node, source: Looks, axis: int) -> Looks:
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        if isinstance(module, _WINDOWS):
            return Looks(_windowed(module, source.places, axis), source.depth + _counts(module))
    elif node.target is F.pad:
        amounts: Any = node.args[1]
        before, after = amounts[2 * (1 - axis) : 2 * (1 - axis) + 2]
        return Looks(_padded(source.places, before, after), source.depth)
    return source


def _windowed(module: Any, places: Tensor, axis: int) -> Tensor:
    kernel_size, stride, padding, dilation = (
        value[axis] if isinstance(value, tuple) else value
        for value in (
            module.kernel_size,
            module.stride,
            module.padding,
            getattr(module, "dilation", 1),
        )
    )
    padded = _padded(places, padding, padding)
    span = dilation * (kernel_size - 1) + 1
    if getattr(module, "ceil_mode", False) and (padded.numel() - span) % stride:
        padded = _padded(padded, 0, stride)
    kernel = torch.full((1, 1, kernel_size), 1 / kernel_size, dtype=torch.float64)
    return F.conv1d(padded[None, None], kernel, stride=stride, dilation=dilation).flatten()


def _padded(places: Tensor, before: int, after: int) -> Tensor:
    step = places[1] - places[0]
    index = torch.arange(-before, places.numel() + after, dtype=torch.float64)
    return places[0] + step * index


def _counts(module: Any) -> bool:
    """A 1x1 convolution with stride 1 looks where its input does."""
    return module.kernel_size not in (1, (1, 1)) or module.stride not in (1, (1, 1))
