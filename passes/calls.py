"""What every module that a trace enters was given, did and returned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import fx


@dataclass(eq=False)
class ModuleCall:
    """One run of a module's `forward`.

    `inputs` and `outputs` hold nodes where the values had proxies; `steps` are the nodes that its
    own code made and the calls of the modules that it entered, in order.
    """

    path: str
    inputs: Any
    steps: list[fx.Node | ModuleCall] = field(default_factory=list)
    outputs: Any = None


class CallRecord:
    """The calls of all modules that a trace enters, the root's first."""

    def __init__(self) -> None:
        self.calls = [ModuleCall("", ())]
        self._running = list(self.calls)

    @contextmanager
    def entering(self, path: str, inputs: Any) -> Iterator[ModuleCall]:
        call = ModuleCall(path, inputs)
        self.add(call)
        self.calls.append(call)
        self._running.append(call)
        yield call
        self._running.pop()

    def add(self, step: fx.Node | ModuleCall) -> None:
        """A step of the module that is running."""
        self._running[-1].steps.append(step)
