"""What `forward` leaves in the attributes of modules for its next call.

A cache, such as that of position biases, would be a proxy of the trace, of no use to the other mode
and to the pre-train network: it is dropped. A number or a flag may be how calls follow one another
(`self.step += 1`, `if not self.ready: ...`). A graph holds one call, so another trace must come out
the same with what the first one left, and with much larger numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import fx, nn

from fxscale.passes.refusal import refusal

Rest = TypeVar("Rest")
Attribute = tuple[nn.Module, str]
_MUCH = 1_000_000


def refusing_carried_state(
    model: nn.Module, trace: Callable[[], tuple[fx.Graph, Rest]]
) -> tuple[fx.Graph, Rest]:
    """Trace `model`, and leave its attributes as they are.

    Raises `UnsupportedModelError` where the graph depends on what a call leaves in them.
    """
    before = _Attributes(model)
    try:
        result = trace()
        left = before.changed_numbers()
        for values in (
            (left, {name: _larger(value) for name, value in left.items()}) if left else ()
        ):
            before.restore()
            for (module, name), value in values.items():
                module.__dict__[name] = value
            _check_same(result[0], trace()[0], left)
    finally:
        before.restore()
    return result


def _larger(value: Any) -> Any:
    return value + _MUCH if type(value) in (int, float) else value


def _check_same(graph: fx.Graph, again: fx.Graph, left: Mapping[Attribute, Any]) -> None:
    nodes, others = list(graph.nodes), list(again.nodes)
    for node, other in zip(nodes, others, strict=False):
        if _written(node) != _written(other):
            names = sorted({f"{type(module).__name__}.{name}" for module, name in left})
            raise refusal(
                node,
                "a call of forward depends on what the last one left in an attribute (one of "
                f"{', '.join(names)})",
                remedy="initialise before downscale what the first call would, and take counters "
                "and switches out of forward",
            )


def _written(node: fx.Node) -> object:
    return node.op, node.target, repr((node.args, node.kwargs))


class _Attributes:
    """All attributes of all modules, as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self._values = [(module, dict(vars(module))) for module in model.modules()]
        self._containers: list[tuple[Any, Any]] = [
            (value, copy.copy(value))
            for _, values in self._values
            for value in values.values()
            if type(value) in (dict, list, set)
        ]

    def changed_numbers(self) -> dict[Attribute, Any]:
        """Numbers, flags and words that are not what they were."""
        return {
            (module, name): value
            for module, values in self._values
            for name, value in vars(module).items()
            if type(value) in (bool, int, float, str)
            and (type(value), value) != (type(values.get(name)), values.get(name))
        }

    def restore(self) -> None:
        for module, values in self._values:
            # fx keeps the constants of a trace as new attributes of the root.
            constants = {
                name: value
                for name, value in vars(module).items()
                if name not in values and isinstance(value, torch.Tensor)
            }
            module.__dict__.clear()
            module.__dict__.update(values | constants)
        for container, content in self._containers:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)
