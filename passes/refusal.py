"""Where in a model something happens: node, module and the line of its author's code."""

from __future__ import annotations

import os
import sys
from types import FrameType, TracebackType

import torch
from torch import fx

from fxscale.errors import UnsupportedModelError, in_words

SOURCE = "fxscale_source"
"""Key of `node.meta` under which `file:line` of the model's code is kept."""

_PASSES = os.path.dirname(__file__) + os.sep
_NOT_THE_AUTHORS = (os.path.dirname(torch.__file__) + os.sep, _PASSES, "<")
_TRACE = _PASSES + "trace.py"


def module_path(node: fx.Node) -> str:
    """Path of the innermost module whose `forward` made `node`; `""` for the root."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]) if paths else ""


def refusal(
    node: fx.Node, reason: str, *, remedy: str, module: str | None = None
) -> UnsupportedModelError:
    """The error that stops at `node`; `module` where it is not the one that made the node."""
    return UnsupportedModelError(
        reason,
        remedy=remedy,
        node=node.name,
        module=module_path(node) if module is None else module,
        source=node.meta.get(SOURCE),
    )


def place(node: fx.Node) -> str:
    """Where `node` stands, for use in a message."""
    return in_words(node.name, module_path(node), node.meta.get(SOURCE))


def calling_line() -> str | None:
    """`file:line` of the model's code that is being traced: the innermost that is not torch's.

    `None` where no code but torch's own made the call, as in an `nn.Sequential`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != _TRACE:
        if not frame.f_code.co_filename.startswith(_NOT_THE_AUTHORS):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def failing_line(error: BaseException) -> str | None:
    """`file:line` of the innermost code in an error's traceback that is not torch's."""
    found = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        path = step.tb_frame.f_code.co_filename
        if not path.startswith(_NOT_THE_AUTHORS):
            found = f"{path}:{step.tb_lineno}"
        step = step.tb_next
    return found
