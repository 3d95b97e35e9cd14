"""Both networks of a plan as one list of layers, in words: what a picture of them shows.

A layer is a node of the graph at which feature maps get new sizes or meet (convolution, pool, sum,
concatenation, resize, explicit padding), a linear layer, a reduction, or an operator that the
compiler inserted. What lies between (normalisation, activations, views) is left out; a layer reads
the layers that reach it through that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.ops.registry import describe, lookup, per_axis
from fxscale.passes.refusal import module_path
from fxscale.plan import ConvCall, ConvPlan, Padding, PoolPlan, ScalePlan, Size
from fxscale.plan_table import format_padding
from fxscale.pretrain_network import PretrainNetwork

Kind = Literal["input", "conv", "pool", "linear", "other", "inserted"]

_WORDS = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "cat": "concat",
    "concatenate": "concat",
    "avg": "average",
}


@dataclass(frozen=True)
class Side:
    """A layer as it is in one of the two networks; texts are empty where nothing is to be said."""

    window: str = ""
    """Kernel size, `"3×3"`; of a linear layer its inputs and outputs, `"1024×6×6 → 3072"`."""
    padding: str = ""
    """`"pad 1"`, `"pad 0/1"` (before/after), `"crop 1/0"`."""
    size: Size = ()
    """Of the feature map that comes out; empty where it has no spatial axes, or keeps its size."""
    reads: tuple[int, ...] = ()
    """Places in the list of the layers that this one reads."""


@dataclass(frozen=True)
class Layer:
    """One layer of both networks; `target` is `None` for an operator that was inserted."""

    name: str
    kind: Kind
    operator: str
    target: Side | None
    pretrain: Side
    channels: int | None = None
    stride: str = ""


def layers(network: PretrainNetwork, target: nn.Module) -> tuple[Layer, ...]:
    """The layers of a pre-train network and of its target, in the order of execution.

    `network` is what `fxscale.downscale(target, ...)` returned; the graph of its train mode is
    read, in which auxiliary heads take part.
    """
    reader = _Reader(network, target)
    nodes = [node for node in network.graph.nodes if reader.kind(node) is not None]
    own = [node for node in nodes if reader.kind(node) != "inserted"]
    places = {node: place for place, node in enumerate(nodes)}
    before, after = _sources(network.graph, own), _sources(network.graph, nodes)

    def reads(sources: Mapping[fx.Node, Collection[fx.Node]], node: fx.Node) -> tuple[int, ...]:
        return tuple(sorted(places[source] for source in sources[node]))

    return tuple(reader.layer(node, reads(before, node), reads(after, node)) for node in nodes)


def _sources(graph: fx.Graph, kept: Collection[fx.Node]) -> dict[fx.Node, dict[fx.Node, None]]:
    """For each node the kept nodes that reach it through others; sizes are read, not carried."""
    chosen = set(kept)
    reach: dict[fx.Node, dict[fx.Node, None]] = {}
    for node in graph.nodes:
        reach[node] = {}
        for source in node.all_input_nodes:
            if source in chosen:
                reach[node][source] = None
            elif source.op == "call_module" or _handler_file(source, source.target) != "shape":
                reach[node] |= reach[source]
    return reach


def _handler_file(node: fx.Node, target: Any) -> str:
    """The kind of an operator is the file of its handler: `"conv"`, `"pool"`, `"join"`."""
    registration = lookup(f".{target}" if node.op == "call_method" else target)
    return registration.handler.__module__.rpartition(".")[2] if registration else ""


class _Reader:
    """What the plan, the graph and the modules of both networks say about a node."""

    def __init__(self, network: PretrainNetwork, target: nn.Module) -> None:
        self.network, self.target = network, target
        self.plan: ScalePlan = network.plan
        self.maps = {feature_map.node: feature_map for feature_map in self.plan.feature_maps}
        self.pools = {pool.node: pool for pool in self.plan.pools}
        self.convs = {call.node: (conv, call) for conv in self.plan.convs for call in conv.calls}
        self.state = {entry.key: entry for entry in self.plan.state}
        self.interfaces = {interface.weight: interface for interface in self.plan.interfaces}

    def kind(self, node: fx.Node) -> Kind | None:
        """`None` for a node that is no layer."""
        if node.op == "placeholder":
            return "input" if node.name in self.maps else None
        if not node.op.startswith("call"):
            return None
        if node.name in self.convs:
            return "conv"
        if self._inserted(node):
            return "inserted"
        file = _handler_file(node, self._operator(node))
        if file in ("pool", "linear"):
            return file  # type: ignore[return-value]  # mypy does not narrow to literals
        if file == "reduce":
            return "pool"
        return "other" if node.name in self.maps else None

    def _operator(self, node: fx.Node) -> Any:
        """What operators are registered by: a module's class, a function, a method's name."""
        return node.target if node.op != "call_module" else type(self._module(node))

    def _module(self, node: fx.Node) -> nn.Module:
        return self.network.get_submodule(str(node.target))

    def _inserted(self, node: fx.Node) -> bool:
        """A pad operator before a convolution or a join; two in a row unless zeros are padded."""
        if node.target is not F.pad or node.name in self.maps:
            return False
        for user in node.users:
            names = {user.name, *(f"{source} -> {user}" for source in node.all_input_nodes)}
            if not names.isdisjoint(self.plan.pad_operators) or self._inserted(user):
                return True
        return False

    def layer(self, node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> Layer:
        kind = self.kind(node)
        assert kind is not None
        name = module_path(node) or node.name
        feature_map = self.maps.get(node.name)
        sizes = (feature_map.target_size, feature_map.pretrain_size) if feature_map else ((), ())
        windows, paddings, stride = ("", ""), ("", ""), ""
        operator, channels = self._words(node), None
        if kind == "conv":
            conv, call = self.convs[node.name]
            name, channels, operator = conv.name, conv.out_channels, _conv_words(conv)
            windows = product_sign(conv.kernel_size), product_sign(conv.pretrain_kernel_size)
            stride = _stride(conv.stride)
            paddings = self._paddings(node, call)
            sizes = call.target_output, call.pretrain_output  # 1×1 kernels make no map of their own
        elif kind == "linear":
            windows = self._features(node)
        elif kind == "pool":
            windows, stride = self._pool(node)
            if node.name in self.pools:
                paddings = self._paddings(node, self.pools[node.name])
        elif kind == "input":
            name = node.name
        elif kind == "inserted":
            operator = _padding(_amounts(node))
            return Layer(name, kind, operator, None, Side(reads=after))
        small = Side(windows[1], paddings[1], sizes[1], after)
        large = Side(windows[0], paddings[0], sizes[0], before)
        return Layer(name, kind, operator, large, small, channels, stride)

    def _words(self, node: fx.Node) -> str:
        """`MaxPool2d` as "max pool", `iadd` as "add"."""
        if node.op == "placeholder":
            return "input"
        name = describe(node, self._module(node) if node.op == "call_module" else None)
        name = name.rpartition(".")[2].strip("_")
        parts = re.findall(r"[A-Z]?[a-z]+", re.sub(r"\dd$", "", name))
        words = " ".join(_WORDS.get(part.lower(), part.lower()) for part in parts)
        return words if node.name in self.maps else words.replace("adaptive", "global")

    def _paddings(self, node: fx.Node, call: ConvCall | PoolPlan) -> tuple[str, str]:
        """The layer's own padding in both networks, without that of operators in front of it."""
        own = call.pretrain_padding
        source = node.all_input_nodes[0]
        while self._inserted(source):
            pairs = zip(own, _amounts(source)[-len(own) :], strict=True)
            own = tuple((a - c, b - d) for (a, b), (c, d) in pairs)
            source = source.all_input_nodes[0]
        if not any(map(any, (*own, *call.target_padding))):
            return "", ""
        return _padding(call.target_padding), _padding(own)

    def _features(self, node: fx.Node) -> tuple[str, str]:
        """Inputs and outputs of a linear layer in both networks."""
        weight = f"{node.target}.weight"
        if node.op != "call_module":
            weight = str(node.all_input_nodes[1].target) if len(node.all_input_nodes) > 1 else ""
        if weight not in self.state:  # computed, by a parametrisation or in the model's code
            return "", ""
        entry = self.state[weight]
        inputs = [str(shape[1]) for shape in (entry.target_shape, entry.pretrain_shape)]
        interface = self.interfaces.get(weight)
        if interface is not None:
            for place, size in enumerate((interface.target_size, interface.pretrain_size)):
                if interface.channels * prod(size) == int(inputs[place]):
                    inputs[place] = product_sign((interface.channels, *size))
        outputs = [str(shape[0]) for shape in (entry.target_shape, entry.pretrain_shape)]
        if entry.kind == "unflattened":
            views = (entry.target_view, entry.pretrain_view)
            outputs = [product_sign(view[:-1]) for view in views]
        large, small = map(" → ".join, zip(inputs, outputs, strict=True))
        return large, small

    def _pool(self, node: fx.Node) -> tuple[tuple[str, str], str]:
        """Kernel sizes and stride of a pool that is a module; nothing of an adaptive one."""
        if node.op != "call_module":
            return ("", ""), ""
        small: Any = self._module(node)
        large: Any = self.target.get_submodule(str(node.target))
        if not hasattr(small, "kernel_size"):
            return ("", ""), ""
        rank = len(self.plan.target_size)
        windows = (
            product_sign(per_axis(large.kernel_size, rank)),
            product_sign(per_axis(small.kernel_size, rank)),
        )
        return windows, _stride(per_axis(large.stride, rank))


def _conv_words(conv: ConvPlan) -> str:
    depthwise = conv.groups == conv.in_channels > 1
    kind = "depthwise" if depthwise else "grouped" if conv.groups > 1 else ""
    transposed = "transposed" if conv.transposed else ""
    dilated = "dilated" if max(conv.dilation) > 1 else ""
    return " ".join(word for word in (kind, dilated, transposed, "conv") if word)


def product_sign(size: Size) -> str:
    return "×".join(map(str, size))


def _stride(stride: Size) -> str:
    return (
        ""
        if set(stride) == {1}
        else f"/{stride[0] if len(set(stride)) == 1 else product_sign(stride)}"
    )


def _padding(padding: Padding) -> str:
    word = "pad"
    if any(map(any, padding)) and all(amount <= 0 for pair in padding for amount in pair):
        word, padding = "crop", tuple((-before, -after) for before, after in padding)
    return f"{word} {format_padding(padding)}".replace("x", "×")


def _amounts(pad: fx.Node) -> Padding:
    """What an inserted `F.pad` adds, per axis in the order of the axes."""
    flat: Any = pad.args[1]
    return tuple((flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2))
