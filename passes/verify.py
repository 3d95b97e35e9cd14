"""Pass 10, verify: run the pre-train network on fake tensors and compare it with what was planned.

1. Every tensor has the shape that the solved axes predict.
2. Every number that Python took from a size (`range(h)`) is the same, for any batch.
3. The state has exactly the keys and shapes that the inverse expects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from fxscale.errors import FxscaleError, UnsupportedModelError, first_line
from fxscale.passes.annotations import divides_the_batch
from fxscale.passes.axes import AnnotatedNetwork, Lengths, SelfSized, Shape, pretrain_length
from fxscale.passes.evaluate import evaluate_node
from fxscale.passes.inputs import BATCH
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import refusal
from fxscale.passes.trace import TracedNetwork
from fxscale.passes.tracer import Decision
from fxscale.plan import Size
from fxscale.pretrain_network import PretrainNetwork

PRETRAIN_VALUE = "fxscale_pretrain_value"
LARGER_BATCH_VALUE = "fxscale_larger_batch_value"
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
    inputs = traced.inputs.fake(traced.fake_mode, resize)
    for node in _run(small, traced, inputs, PRETRAIN_VALUE):
        _check_shapes(node, network.annotations.get(node), lengths)
    _check_numbers(small, traced, network, resize)
    _check_state(small)
    for graph in (small.graph, small._eval_graph):
        if graph is not None:
            graph.lint()


def _run(
    small: PretrainNetwork, traced: TracedNetwork, inputs: Mapping[str, Any], key: str
) -> Iterator[fx.Node]:
    """Compute every node's value under `meta[key]`; yields those that compute something."""
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            node.meta[key] = inputs.get(str(node.target), node.meta[VALUE])
            continue
        try:
            node.meta[key] = evaluate_node(node, small, key, traced.fake_mode)
        except FxscaleError:
            raise
        except Exception as error:  # whatever the operator raises, said with its node
            raise _unsupported(
                node, f"{node.name!r} fails in the pre-train network: {first_line(error)}"
            ) from error
        if node.op != "get_attr":  # the state's shapes are checked on their own
            yield node


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


def _check_numbers(
    small: PretrainNetwork, traced: TracedNetwork, network: AnnotatedNetwork, resize: Any
) -> None:
    """Numbers that Python took are constants of the graph: no size, no batch may change them.

    Halves of a batch are two for every even one.
    """
    taken = [d for d in traced.decisions if not isinstance(d.value, bool)]
    numbers, divided = [], []
    for decision in taken:
        _check_number(decision, PRETRAIN_VALUE, "the pre-train size")
        if not isinstance(decision.node.meta[VALUE], tuple | list):
            numbers.append(decision)
        elif divides_the_batch(decision.node, network.annotations):
            divided.append(decision)
    for decisions, batch in ((numbers, BATCH + 1), (divided, 2 * BATCH)):
        if decisions:
            inputs = traced.inputs.fake(traced.fake_mode, resize, batch=batch)
            deque(_run(small, traced, inputs, LARGER_BATCH_VALUE), maxlen=0)
        for decision in decisions:
            _check_number(decision, LARGER_BATCH_VALUE, "another batch size")


def _check_number(decision: Decision, key: str, where: str) -> None:
    found = decision.read(decision.node.meta[key])
    if found != decision.value:
        raise _unsupported(
            decision.node,
            f"Python code in forward took a number from a size: {decision.node.name!r} is "
            f"{decision.value} at the target size and {found} at {where}",
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
