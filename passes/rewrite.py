"""Pass 9, rewrite: emit the pre-train network from the graph and the plan's decisions.

1. The module tree is copied; resized parameters are made at their new size, not copied at the old.
2. Convolutions get their new kernel size and padding in place, under their own names and classes.
3. Sizes baked into modules and arguments are replaced, and paddings of pads and max pools.
4. Pad operators are inserted where the geometry pass asked for one.
5. Each mode's graph is emitted; where the modes agree, one graph serves both. Branches that were
   taken by the batch size are checked when the network runs.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import fx, nn

from fxscale.branches import same_branch
from fxscale.modes import EVAL, TRAIN
from fxscale.passes.amplitude import insert_scalings, scale_weights
from fxscale.passes.annotations import measures_a_map, measures_the_batch
from fxscale.passes.axes import (
    AnnotatedNetwork,
    Axis,
    Lengths,
    Substitution,
    Window,
    pretrain_length,
)
from fxscale.passes.distances import insert_reads
from fxscale.passes.geometry import Adapter, Geometry
from fxscale.passes.graph_edits import pad_before, set_argument, tensor_input
from fxscale.passes.lookups import freeze_lookups
from fxscale.passes.ops.registry import any_node
from fxscale.passes.padding import Paddings
from fxscale.passes.pools import pad_pools
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import SOURCE, module_path, refusal
from fxscale.passes.resamplings import insert_resamplings
from fxscale.passes.sites import Convolution, Sites
from fxscale.passes.skeleton import stale_weights
from fxscale.passes.trace import TracedNetwork
from fxscale.plan import ScalePlan, StateMap
from fxscale.pretrain_network import PretrainNetwork
from fxscale.resample import Init, downscale_entry


def rewrite(
    traced: TracedNetwork,
    network: AnnotatedNetwork,
    sites: Sites,
    kernels: Mapping[str, tuple[int, ...]],
    geometry: Geometry,
    paddings: Paddings,
    plan: ScalePlan,
    init: Init,
) -> PretrainNetwork:
    """Build the pre-train network; `traced.graph` is changed in place and belongs to the result."""
    root = copy_tree(traced.model, plan.state, init)
    for convolution in sites.convolutions:
        _resize(root, convolution, kernels[convolution.weight], paddings, traced.graph)
    freeze_lookups(traced.graph, network.lookups)
    _replace_sizes(root, network.substitutions, geometry.lengths)
    _replace_pads(root, geometry)
    pad_pools(root, traced.graph, paddings.pools)
    insert_resamplings(traced.graph, network.resamplings, geometry.lengths)
    for adapter_group in _grouped(geometry.adapters):
        _insert_adapter(traced.graph, adapter_group)
    scale_weights(root, traced.graph, sites, kernels)
    scaled = insert_scalings(traced.graph, network.scalings, geometry.lengths)
    gone = insert_reads(network, geometry.lengths)
    branches = {
        decision.node: decision.value
        for decision in traced.decisions
        if isinstance(decision.value, bool)
        and measures_the_batch(decision.node, network.annotations)
        and not measures_a_map(decision.node, network.annotations)
    }
    train_graph = _emit(traced, TRAIN, scaled, gone, branches)
    eval_graph = None if traced.modes_agree else _emit(traced, EVAL, scaled, gone, branches)
    return PretrainNetwork(root, train_graph, eval_graph, plan, traced.modes)


def copy_tree(model: nn.Module, state: Sequence[StateMap], init: Init) -> nn.Module:
    """A deep copy of the model in which the resized tensors have their pre-train size."""
    tensors: dict[str, Any] = model.state_dict(keep_vars=True)
    memo: dict[int, Any] = stale_weights(model)
    maps = {state_map.key: state_map for state_map in state}
    for state_map in state:
        tensor = tensors[state_map.key]
        if state_map.kind == "copy" or id(tensor) in memo:
            continue
        of = state_map.of
        kernel = None if of is None else (tensors[of].detach(), maps[of])
        small = downscale_entry(tensor.detach(), state_map, init, kernel)
        if isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = nn.Parameter(small, requires_grad=tensor.requires_grad)
        else:
            memo[id(tensor)] = small
    return copy.deepcopy(model, memo)


def _resize(
    root: nn.Module,
    convolution: Convolution,
    kernel_size: tuple[int, ...],
    paddings: Paddings,
    graph: fx.Graph,
) -> None:
    layer = paddings.layers[convolution.weight]
    for call in convolution.calls:
        extra = paddings.extra.get(call.node)
        mode = "constant"
        if call.node.op == "call_module":
            module = root.get_submodule(str(call.node.target))
            assert isinstance(module, nn.modules.conv._ConvNd)
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            if layer is not None:
                _set_module(module, kernel_size, layer)
        elif layer is not None:
            set_argument(call.node, "padding", layer)
            for path in {module_path(call.node), convolution.weight.rpartition(".")[0]}:
                owner = root.get_submodule(path)
                if isinstance(owner, nn.modules.conv._ConvNd):  # with a forward of its own
                    _set_module(owner, kernel_size, layer)
        if extra is not None:
            source = tensor_input(call.node)
            padded = pad_before(graph, call.node, source, extra, mode)
            call.node.replace_input_with(source, padded)


def _set_module(
    module: nn.modules.conv._ConvNd, kernel_size: tuple[int, ...], padding: tuple[int, ...]
) -> None:
    module.kernel_size = kernel_size
    module.padding = padding
    # torch.nn keeps the padding a second time, in the order of F.pad, for the non-zero modes.
    module._reversed_padding_repeated_twice = [p for p in reversed(padding) for _ in range(2)]


def _replace_sizes(
    root: nn.Module, substitutions: Sequence[Substitution], lengths: Lengths
) -> None:
    written: dict[tuple[int, str], Any] = {}
    for substitution in substitutions:
        node = substitution.node
        value = _evaluate(substitution.value, lengths, node)
        if substitution.attribute is not None:
            module = root.get_submodule(str(node.target))
            key = (id(module), substitution.attribute)
            if written.setdefault(key, value) != value:
                raise refusal(
                    node,
                    f"two calls of one module need different {substitution.attribute}: "
                    f"{written[key]} and {value}",
                    remedy="use one module per feature map",
                )
            old = getattr(module, substitution.attribute)
            setattr(module, substitution.attribute, _like(old, value))
        elif isinstance(substitution.argument, tuple):
            node.args = _replace_at(node.args, substitution.argument, value)
        elif isinstance(substitution.argument, int):
            node.args = _replace_at(node.args, (substitution.argument,), value)
        else:
            node.kwargs = {**node.kwargs, substitution.argument: value}


def _evaluate(value: Any, lengths: Lengths, node: fx.Node) -> Any:
    """Replace every product of axes by its pre-train length."""
    if callable(value):
        return value(lengths)
    if isinstance(value, tuple) and all(isinstance(item, Axis) for item in value):
        if any(axis.batch for axis in value):
            raise refusal(
                node,
                "a size that counts samples would be fixed",
                remedy="give the batch a dimension of its own, or -1",
            )
        return pretrain_length(value, lengths)
    if isinstance(value, tuple | list):
        return tuple(_evaluate(item, lengths, node) for item in value)
    if isinstance(value, slice):
        bounds = (value.start, value.stop, value.step)
        return slice(*(_evaluate(bound, lengths, node) for bound in bounds))
    return value


def _like(old: Any, value: Any) -> Any:
    """Keep a lone int where it says the same."""
    if isinstance(old, int) and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


def _replace_at(container: Any, path: tuple[int | str, ...], value: Any) -> Any:
    index, *rest = path
    assert isinstance(index, int)
    new = _replace_at(container[index], tuple(rest), value) if rest else value
    return type(container)([*container[:index], new, *container[index + 1 :]])


def _replace_pads(root: nn.Module, geometry: Geometry) -> None:
    """Give explicit pad operators (`F.pad`, `nn.ZeroPad2d`) the amounts that were solved for."""
    by_node: dict[fx.Node, dict[int, Window]] = {}
    for window in geometry.paddings:
        if window.adjustable == "pad":
            by_node.setdefault(window.node, {})[window.position] = window
    for node, windows in by_node.items():
        if node.target is operator.getitem:
            _replace_crop(node, {i: geometry.paddings[w] for i, w in windows.items()})
            continue
        module: Any = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        old: Any = module.padding if module is not None else _pad_argument(node)
        amounts = list(old)
        last = len(next(iter(windows.values())).node.meta[VALUE].shape) - 3
        for position, window in windows.items():
            offset = 2 * (last - position)
            amounts[offset : offset + 2] = geometry.paddings[window]
        if amounts == list(old) and (module is not None or not _computed_pad(node)):
            continue
        if module is not None:
            module.padding = tuple(amounts)
        else:
            set_argument(node, "pad", tuple(amounts))


def _replace_crop(node: fx.Node, margins: Mapping[int, tuple[int, int]]) -> None:
    """Slices whose margins were solved for; they stand at these places of the index."""
    source, index = node.args
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    for place, (before, after) in margins.items():
        items[place] = slice(-before or None, after or None)
    node.args = (source, tuple(items))


def _pad_argument(node: fx.Node) -> Any:
    argument = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
    return fx.node.map_arg(argument, lambda n: n.meta[VALUE])


def _computed_pad(node: fx.Node) -> bool:
    """Whether amounts are computed from sizes, and might come out otherwise than was solved."""
    return any_node(node.args[1:] or node.kwargs["pad"])


def _grouped(adapters: Sequence[Adapter]) -> list[list[Adapter]]:
    groups: dict[tuple[fx.Node, fx.Node], list[Adapter]] = {}
    for adapter in adapters:
        groups.setdefault((adapter.join, adapter.operand), []).append(adapter)
    return list(groups.values())


def _insert_adapter(graph: fx.Graph, group: Sequence[Adapter]) -> None:
    """One pad operator in front of a join, for all axes of one operand."""
    join, operand = group[0].join, group[0].operand
    if not isinstance(operand.meta[VALUE], torch.Tensor):
        raise refusal(
            join,
            f"the parts of the tuple {operand.name!r} come out at different sizes where they meet",
            remedy="unpack the tuple before joining its parts, or try another input_size",
        )
    rank = operand.meta[VALUE].ndim
    first = min(adapter.dim for adapter in group)
    amounts = dict.fromkeys(range(first, rank), (0, 0))
    amounts |= {adapter.dim: adapter.padding for adapter in group}
    padded = pad_before(graph, join, operand, tuple(amounts.values()))
    join.replace_input_with(operand, padded)


def _emit(
    traced: TracedNetwork,
    mode: bool,
    scaled: Mapping[fx.Node, fx.Node],
    gone: Set[fx.Node],
    branches: Mapping[fx.Node, bool],
) -> fx.Graph:
    """The graph of one mode, in its own order, with the nodes that were inserted on the way."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}

    def load(node: fx.Node) -> fx.Node:
        if node not in copies:
            for needed in node.all_input_nodes:
                load(needed)
            new = graph.node_copy(node, copies.__getitem__)
            new.meta = {"nn_module_stack": node.meta.get("nn_module_stack")}
            copies[node] = new
        return copies[node]

    for node in traced.order[mode]:
        if node not in gone:
            load(node)
        if node in branches:
            source = node.meta.get(SOURCE)
            graph.call_function(same_branch, (copies[node], branches[node], source))
    graph.output(fx.node.map_arg(traced.outputs[mode], lambda n: load(scaled.get(n, n))))
    return graph
