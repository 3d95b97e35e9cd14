"""Pass 1, trace: from a module to one graph that holds its train mode and its eval mode.

The model is traced once per mode; what depends on the mode is found (`passes/training_flags.py`),
and the two traces are laid over each other (`passes/merge.py`).
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from fxscale.errors import FxscaleError, UnsupportedModelError, first_line
from fxscale.modes import EVAL, TRAIN, Modes
from fxscale.passes.aliases import use_first_names
from fxscale.passes.assignments import Assigned, noting_assignments
from fxscale.passes.carried_state import (
    first_difference,
    refuse_lost,
    refusing_carried_state,
)
from fxscale.passes.compiled_functions import running_as_written
from fxscale.passes.custom_functions import keeping_custom_functions
from fxscale.passes.feature_maps import FeatureMapMode
from fxscale.passes.gradient_mode import check_without_gradients, noting_questions
from fxscale.passes.inputs import InputSpec
from fxscale.passes.merge import merge
from fxscale.passes.proxies import VALUE
from fxscale.passes.python_names import answering_as_tensors, answering_for_values
from fxscale.passes.randomness import Watch, refusing_draws
from fxscale.passes.refusal import failing_line, module_path, refusal
from fxscale.passes.replay import Listener, check_replay
from fxscale.passes.skeleton import share_tensors
from fxscale.passes.tracer import Decision, ValueTracer, refuse_making
from fxscale.passes.training_flags import find_training_flags
from fxscale.passes.with_blocks import recording_with_blocks
from fxscale.passes.wrapped_functions import entering_wrapped_functions
from fxscale.pretrain_network import TAKEN_NAMES


@dataclass(frozen=True)
class TracedNetwork:
    """The target network as a graph.

    `graph` has no output node: `outputs[mode]` is what the network returns in that mode, and
    `order[mode]` the nodes that the mode runs, in its own order. `model` shares its tensors with
    the caller's model and nothing else.
    """

    model: nn.Module
    graph: fx.Graph
    order: Mapping[bool, tuple[fx.Node, ...]]
    outputs: Mapping[bool, Any]
    decisions: tuple[Decision, ...]
    modes: Modes
    inputs: InputSpec
    fake_mode: FeatureMapMode

    @property
    def returned(self) -> frozenset[fx.Node]:
        """The nodes of which the outputs are made, in either mode."""
        nodes: list[fx.Node] = []
        fx.node.map_arg(list(self.outputs.values()), nodes.append)
        return frozenset(nodes)

    @property
    def modes_agree(self) -> bool:
        return self.order[TRAIN] == self.order[EVAL] and self.outputs[TRAIN] == self.outputs[EVAL]


@running_as_written()
def trace(
    model: nn.Module,
    inputs: InputSpec,
    *,
    leaves: frozenset[object] = frozenset(),
    opaque_types: tuple[type[nn.Module], ...] = (),
    concrete_args: Mapping[str, Any] | None = None,
) -> TracedNetwork:
    """Trace `model` in both modes at the size of `inputs`; the model itself is not touched."""
    skeleton = share_tensors(model)
    fake_mode = FeatureMapMode()
    values = inputs.fake(fake_mode, lambda size: size)

    constants = _defaults(skeleton, values, concrete_args)
    known = {**_constant_placeholders(constants), **values}

    def in_mode(
        mode: bool, assigned: list[Assigned]
    ) -> tuple[fx.Graph, ValueTracer, dict[str, bool]]:
        skeleton.train(mode)
        own = {p: m.training for p, m in skeleton.named_modules() if m.training != mode}

        def run(watch: Watch | None) -> tuple[fx.Graph, ValueTracer]:
            tracer = ValueTracer(fake_mode, known, leaves, opaque_types, watch)
            _refuse_hooks(skeleton, tracer)
            return _trace_mode(tracer, skeleton, constants), tracer

        traced = refusing_draws(
            skeleton, lambda watch: refusing_carried_state(skeleton, partial(run, watch), assigned)
        )
        return *traced, own

    graphs, decisions, calls, own_modes = {}, {}, {}, {}
    asks: dict[bool, bool] = {}
    read: list[torch.Tensor] = []
    with answering_as_tensors(skeleton):
        with (
            answering_for_values(skeleton, lambda proxy: proxy.node.meta[VALUE]),
            noting_assignments() as assigned,
            noting_questions() as askers,
        ):
            for mode in (TRAIN, EVAL):
                graphs[mode], tracer, own_modes[mode] = in_mode(mode, assigned)
                decisions[mode], calls[mode] = tracer.decisions, tracer.record.calls
                read += _read(graphs[mode], tracer)
                asks[mode] = bool(askers) or tracer.asks_for_gradients
            traces = list(graphs.items())
            refuse_lost(
                skeleton,
                list(assigned),
                read,
                lambda: any(first_difference(g, in_mode(m, [])[0]) is not None for m, g in traces),
            )
        listener = Listener(skeleton, fake_mode)
        for mode, graph in graphs.items():
            skeleton.train(mode)
            check_replay(graph, known | constants, listener)
            if asks[mode]:
                check_without_gradients(graph, known | constants, listener)
            use_first_names(graph.nodes)
    flags = find_training_flags(calls, own_modes)
    flags.read()
    merged = merge(graphs)
    _refuse_taken_names(merged.graph)
    kept = [
        replace(decision, node=merged.moved[mode][decision.node])
        for mode in (TRAIN, EVAL)
        for decision in decisions[mode]
        if decision.node in merged.moved[mode]
    ]
    return TracedNetwork(
        model=skeleton,
        graph=merged.graph,
        order={mode: tuple(merged.moved[mode].values()) for mode in (TRAIN, EVAL)},
        outputs=merged.outputs,
        decisions=tuple(dict.fromkeys(kept)),
        modes=Modes(own_modes, flags.deciding),
        inputs=inputs,
        fake_mode=fake_mode,
    )


def _read(graph: fx.Graph, tracer: ValueTracer) -> Iterator[torch.Tensor]:
    """The tensors of the model that a graph reads; equal ones may go by one name."""
    nodes = {str(node.target): node for node in graph.nodes if node.op == "get_attr" and node.users}
    names = nodes.keys()
    for name, node in nodes.items():
        try:
            yield operator.attrgetter(name)(tracer.root)
        except AttributeError:
            raise refuse_making(node, name) from None
    attributes = tracer.tensor_attrs.items()
    yield from (t for t, name in attributes if name in names and isinstance(t, torch.Tensor))


def _refuse_hooks(model: nn.Module, tracer: ValueTracer) -> None:
    """Hooks of a module that the tracer enters would vanish: its call is not in the graph."""
    entered = [("", model)]
    while entered:
        path, module = entered.pop()
        for name, child in module.named_children():
            child_path = f"{path}.{name}".lstrip(".")
            if tracer.is_leaf_module(child, child_path):
                continue
            hooks = (child._forward_hooks, child._forward_pre_hooks, child._backward_hooks)
            if any(hooks) or child._backward_pre_hooks:
                raise UnsupportedModelError(
                    f"the module {child_path!r} has hooks, which would not run in the pre-train "
                    "network",
                    module=child_path,
                    remedy="remove them before downscale and register them on the result, or name "
                    "the module's class in leaf_modules",
                )
            entered.append((child_path, child))


def _refuse_taken_names(graph: fx.Graph) -> None:
    """The network that is made is a `GraphModule`, which has attributes of its own."""
    for node in graph.nodes:
        name = str(node.target).partition(".")[0]
        if node.op in ("call_module", "get_attr") and name in TAKEN_NAMES:
            raise refusal(
                node,
                f"the model's own {name!r} has a name that torch.fx or fxscale keeps for itself",
                remedy=f"give it another name in the model ({name}_), or put the model inside "
                "another module",
            )


def _defaults(
    model: nn.Module, values: Mapping[str, Any], concrete_args: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Arguments that stay at their defaults are constants of the trace, not inputs."""
    constants = dict(concrete_args or {})
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if name not in values and parameter.default is not inspect.Parameter.empty:
            constants.setdefault(name, parameter.default)
    return constants


def _constant_placeholders(constants: Mapping[str, Any]) -> dict[str, Any]:
    """The values of constants, by the placeholders that fx makes for their leaves."""
    return {
        f"{name}_{index}": leaf
        for name, value in constants.items()
        for index, leaf in enumerate(tree_leaves(value), start=1)
    }


def _trace_mode(tracer: ValueTracer, model: nn.Module, constants: dict[str, Any]) -> fx.Graph:
    try:
        with (
            keeping_custom_functions(),
            recording_with_blocks(tracer),
            entering_wrapped_functions(tracer.leaves),
        ):
            graph = tracer.trace(model, concrete_args=constants or None)
        tracer.check_constants()
        return _without_constants(graph, model)
    except FxscaleError:
        raise
    except Exception as error:  # whatever the model's forward raises
        last = next(iter(reversed(tracer.graph.nodes)), None) if hasattr(tracer, "graph") else None
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be traced: {type(error).__name__}: {first_line(error)}",
            node=last.name if last is not None else None,
            module=module_path(last) if last is not None else None,
            source=failing_line(error),
            remedy="name the class of the module that cannot be entered in leaf_modules, or take "
            "the construct out of forward",
        ) from error


def _without_constants(graph: fx.Graph, model: nn.Module) -> fx.Graph:
    """Drop the arguments that fx keeps for constants, and its checks that nobody passes them."""
    names = inspect.signature(model.forward).parameters

    def drop(node: fx.Node) -> None:
        for user in list(node.users):
            drop(user)
        graph.erase_node(node)

    for node in list(graph.nodes):
        if node.op == "placeholder" and str(node.target).lstrip("*") not in names:
            drop(node)
    return graph
