"""Pass 10, verify: run the pre-train network on fake tensors and compare it with what was planned.

1. Every tensor has the shape that the solved axes predict.
2. Every decision that the trace took from a size (`if x.shape[-1] > 7`) comes out the same.
3. The state has exactly the keys and shapes that the inverse expects.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxscale.errors import FxscaleError, UnsupportedModelError
from fxscale.passes.axes import AnnotatedNetwork, Lengths, SelfSized, Shape, pretrain_length
from fxscale.passes.refusal import refusal
from fxscale.passes.trace import TracedNetwork
from fxscale.passes.tracer import VALUE, evaluate_node, first_line, quiet_failures
from fxscale.plan import Size
from fxscale.pretrain_network import PretrainNetwork

PRETRAIN_VALUE = "fxscale_pretrain_value"
_REMEDY = "try another input_size, name the layers concerned in keep, or register a handler"


def verify(
    small: PretrainNetwork,
    traced: TracedNetwork,
    network: AnnotatedNetwork,
    lengths: Lengths,
    resize: Any,
) -> None:
    """Raise `UnsupportedModelError` unless `small` computes what was planned; nothing is allocated.

    `resize` maps the target's image size to the pre-train network's.
    """
    _run(small, traced, network, lengths, resize)
    _check_decisions(traced)
    _check_state(small)
    for graph in (small.graph, small._eval_graph):
        if graph is not None:
            graph.lint()


def _run(
    small: PretrainNetwork,
    traced: TracedNetwork,
    network: AnnotatedNetwork,
    lengths: Lengths,
    resize: Any,
) -> None:
    inputs = traced.inputs.fake(traced.fake_mode, resize)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            node.meta[PRETRAIN_VALUE] = inputs.get(str(node.target), node.meta[VALUE])
            continue
        try:
            with traced.fake_mode, quiet_failures():
                node.meta[PRETRAIN_VALUE] = evaluate_node(node, small, PRETRAIN_VALUE)
        except FxscaleError:
            raise
        except Exception as error:
            raise _unsupported(
                node, f"{node.name!r} fails in the pre-train network: {first_line(error)}"
            ) from error
        if node.op != "get_attr":  # the state's shapes are checked on their own
            _check_shapes(node, network.annotations.get(node), lengths)


def _check_shapes(node: fx.Node, annotation: Any, lengths: Lengths) -> None:
    pairs = [(annotation, node.meta[PRETRAIN_VALUE])]
    while pairs:
        planned, value = pairs.pop()
        if isinstance(planned, tuple | list) and isinstance(value, tuple | list):
            pairs += zip(planned, value, strict=False)
        if not (isinstance(planned, Shape) and isinstance(value, torch.Tensor)):
            continue
        if isinstance(planned, SelfSized):
            continue
        expected = tuple(pretrain_length(dim, lengths) for dim in planned.dims)
        if expected != tuple(value.shape):
            raise _unsupported(
                node,
                f"{node.name!r} has the shape {tuple(value.shape)} in the pre-train network where "
                f"{expected} was planned",
            )


def _check_decisions(traced: TracedNetwork) -> None:
    for decision in traced.decisions:
        value = decision.node.meta[PRETRAIN_VALUE]
        found = type(decision.value)(value)
        if found != decision.value:
            raise _unsupported(
                decision.node,
                f"Python code in forward depends on a size: {decision.node.name!r} is "
                f"{decision.value} at the target size and {found} at the pre-train size",
            )


def _check_state(small: PretrainNetwork) -> None:
    expected = {entry.key: entry.pretrain_shape for entry in small.plan.state}
    found: dict[str, Size] = {k: tuple(v.shape) for k, v in small.state_dict().items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise UnsupportedModelError(
            f"the state of the pre-train network is not what was planned, first at {wrong[0]!r}: "
            f"planned {expected.get(wrong[0])}, found {found.get(wrong[0])}",
            remedy=_REMEDY,
        )


def _unsupported(node: fx.Node, reason: str) -> UnsupportedModelError:
    return refusal(node, reason, remedy=_REMEDY)
