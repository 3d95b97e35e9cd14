"""What `forward` leaves in the attributes of modules for its next call.

A cache, such as that of position biases, would be a proxy of the trace, of no use to the other mode
and to the pre-train network: it is dropped. A number or a flag may be how calls follow one another
(`self.step += 1`, `if not self.ready: ...`), and so may what is computed from images
(`self.hidden = self.cell(x, self.hidden)`). A graph holds one call, so another trace must come out
the same with what the first one left, and with much larger numbers.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx, nn

from fxscale.passes.assignments import Assigned, lost
from fxscale.passes.origins import Origin, origin_of
from fxscale.passes.proxies import VALUE
from fxscale.passes.refusal import refusal
from fxscale.passes.tracer import CONSTANT

Rest = TypeVar("Rest")
_MUCH = 1_000_000
_CONTAINERS = (dict, list, set, OrderedDict, defaultdict, deque)


@dataclass(frozen=True)
class Left:
    """What a call has changed, known as `name`: `holder[key]`, a number, flag, word or tensor."""

    holder: Any
    key: Any
    value: Any
    name: str

    def write(self, *, larger: bool) -> None:
        number = type(self.value) in (int, float)
        value = self.value + _MUCH if larger and number else self.value
        if isinstance(self.holder, list | deque) and self.key == len(self.holder):
            self.holder.append(value)
        else:
            self.holder[self.key] = value


def refusing_carried_state(
    model: nn.Module, trace: Callable[[], tuple[fx.Graph, Rest]], assigned: list[Assigned]
) -> tuple[fx.Graph, Rest]:
    """Trace `model`, and leave its attributes as they are.

    The tensors in lists and tables that were replaced, and those that are new anywhere, are added
    to those `assigned`, which the other mode may read. Raises `UnsupportedModelError` where the
    graph depends on what a call leaves in attributes.
    """
    before = _Attributes(model)
    try:
        result = trace()
        remembered = list(before.remembered(result[0]))
        maps = (Left(one.holder, one.key, one.before, one.name) for one in remembered)
        left = [*before.changed(), *maps]
        assigned += [*before.replaced(), *remembered]
        found = len(assigned)
        for larger in (False, True) if left else ():
            before.restore()
            for place in left:
                place.write(larger=larger)
            _check_same(result[0], trace()[0], left)
        del assigned[found:]  # in place of what the traces since then were given
    finally:
        before.restore()
    return result


@contextmanager
def keeping_attributes(model: nn.Module) -> Iterator[None]:
    """Leave the attributes of all modules as they are, whatever calls write into them."""
    before = _Attributes(model)
    try:
        yield
    finally:
        before.restore()


def refuse_lost(
    model: nn.Module,
    assigned: Sequence[Assigned],
    read: Iterable[torch.Tensor],
    differs: Callable[[], bool],
) -> None:
    """Raise `UnsupportedModelError` if one is part of the state, or is read by a call of any mode.

    `read` are the tensors that the graphs read as they are. Others are computed with in Python:
    `differs` tells whether another trace of either mode comes out differently.
    """
    known = set(map(id, read))
    for one in assigned:
        if one.persistent or id(one.before) in known:
            raise lost(one.node, one.name)
    if not assigned:
        return
    with keeping_attributes(model):
        for place in {(id(one.holder), one.key): one for one in assigned}.values():
            truth = place.before.dtype == torch.bool
            other = ~place.before if truth else place.before.nan_to_num() + 1
            Left(place.holder, place.key, other, place.name).write(larger=False)
        changed = differs()
    if changed:
        raise lost(assigned[0].node, ", ".join(sorted({one.name for one in assigned})))


def first_difference(graph: fx.Graph, again: fx.Graph) -> fx.Node | None:
    """The first node of a trace that is another one in the second trace."""
    pairs = zip(list(graph.nodes), list(again.nodes), strict=False)
    return next((node for node, other in pairs if _written(node) != _written(other)), None)


def _check_same(graph: fx.Graph, again: fx.Graph, left: Sequence[Left]) -> None:
    node = first_difference(graph, again)
    if node is not None:
        names = sorted({place.name for place in left})
        raise refusal(
            node,
            "a call of forward depends on what the last one left in an attribute (one of "
            f"{', '.join(names)})",
            remedy="initialise before downscale what the first call would, take counters and "
            "switches out of forward, and give it maps of the last call as an argument",
        )


def _written(node: fx.Node) -> object:
    return node.op, node.target, repr((node.args, node.kwargs))


class _Attributes:
    """All attributes of all modules, as they are now, and what is in their lists and tables."""

    def __init__(self, model: nn.Module) -> None:
        self._values = [(module, dict(vars(module))) for module in model.modules()]
        self._containers: list[tuple[Any, Any, str]] = [
            (value, copy.copy(value), f"{type(module).__name__}.{name}")
            for module, values in self._values
            for name, value in values.items()
            if type(value) in _CONTAINERS and not (name[0] == "_" and type(value) is OrderedDict)
        ]

    def changed(self) -> Iterator[Left]:
        """Numbers, flags and words that are not what they were."""
        for module, values in self._values:
            for name, value in vars(module).items():
                if _differs(value, values.get(name)):
                    yield Left(vars(module), name, value, f"{type(module).__name__}.{name}")
        for container, key, known, now, name in self._items():
            if _differs(now, known):
                yield Left(container, key, now, name)

    def remembered(self, graph: fx.Graph) -> Iterator[Assigned]:
        """What was computed from images and put where no tensor was: zeros stand for it."""
        origins: dict[fx.Node, Origin] = {}
        for node in graph.nodes:
            if node.op != "output":
                origins[node] = origin_of(node, origins)
        for holder, known, name in self._holders():
            for key, now in list(_entries(holder).items()):
                if not isinstance(now, fx.Proxy) or isinstance(known.get(key), torch.Tensor):
                    continue
                value = now.node.meta[VALUE]
                if isinstance(value, torch.Tensor) and origins.get(now.node) is Origin.IMAGE:
                    zeros = torch.zeros(value.shape, dtype=value.dtype, device=value.device)
                    yield Assigned(zeros, now.node, f"{name}.{key}", holder, key)

    def _holders(self) -> Iterator[tuple[Any, dict[Any, Any], str]]:
        """Attributes, lists and tables, each with what was in it before."""
        for module, values in self._values:
            yield vars(module), values, type(module).__name__
        for container, content, name in self._containers:
            if not isinstance(container, set):
                yield container, _entries(content), name

    def replaced(self) -> Iterator[Assigned]:
        """Tensors in lists and tables in whose places proxies are; those of buffers are noted."""
        for container, key, known, now, name in self._items():
            is_tensor = isinstance(known, torch.Tensor) and not isinstance(known, fx.Proxy)
            if is_tensor and isinstance(now, fx.Proxy) and not name.endswith("._buffers"):
                yield Assigned(known, now.node, name, container, key)

    def _items(self) -> Iterator[tuple[Any, Any, Any, Any, str]]:
        """Of every list and table: itself, and a key with its value before and now."""
        for container, content, name in self._containers:
            if isinstance(container, set):
                continue
            known, now = _entries(content), _entries(container)
            for key in known.keys() & now.keys():
                yield container, key, known[key], now[key], name

    def restore(self) -> None:
        for module, values in self._values:
            # fx keeps the constants of a trace as new attributes of the root.
            constants = {k: v for k, v in vars(module).items() if k.startswith(CONSTANT)}
            module.__dict__.clear()
            module.__dict__.update(values | constants)
        for container, content, _ in self._containers:
            container.clear()
            fill = container.extend if isinstance(container, list | deque) else container.update
            fill(content)


def _entries(container: Any) -> dict[Any, Any]:
    return dict(container) if isinstance(container, dict) else dict(enumerate(container))


def _differs(value: Any, before: Any) -> bool:
    plain = type(value) in (bool, int, float, str)
    return plain and (type(value), value) != (type(before), before)
