"""When the names that Python code uses may answer for proxies, and what they answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable

import fxscale
from fxscale.passes.python_names import only_called
from tests.passes.networks import Around, assert_same_outputs

CALLS = [
    "def f(x): return int(x) + int('7')",
    "def f(x): return [int(n) for n in x]",
    "def f(x): return (lambda n: int(n))(x)",
    "class A:\n  n: int = 0\n  @staticmethod\n  def f(x): return int(x)",
    "class A:\n  @property\n  def n(self): return int(2.0)",
    "def f(x: int) -> int: return x",
    "def f(print): return print.int",
]
OTHER_USES = [
    "def f(x): return isinstance(x, int)",
    "def f(x): return type(x) is int and int(x)",
    "def f(x): return x.to(dtype=int)",
    "class A:\n  @classmethod\n  def f(cls, x): return map(int, x)",
    "def f(x):\n  def g(): return int\n  return g()(x)",
]


@pytest.mark.parametrize("source", CALLS)
def test_a_name_that_is_only_called(source: str) -> None:
    assert only_called({"int"}, module(source)) == {"int"}


@pytest.mark.parametrize("source", OTHER_USES)
def test_a_name_that_stands_for_a_class(source: str) -> None:
    assert not only_called({"int"}, module(source))


def module(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "somewhere"}
    exec(source, namespace)
    return namespace


def padded_as_tensorflow_does(m: Any, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    rows, columns = (max((math.ceil(float(n) / 2) - 1) * 2 + 3 - n, 0) for n in (h, w))
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def tagged(m: Any, x: Any) -> Any:
    x.tag = 1
    return m.more(x) if getattr(x, "tag", 0) == 1 else x


ASKED: dict[str, Callable[[Any, Tensor], Any]] = {
    "type is": lambda m, x: m.more(x) if type(x) is torch.Tensor else x,
    "type in": lambda m, x: m.more(x) if type(x) in (torch.Tensor, nn.Parameter) else x,
    "name of the type": lambda m, x: m.more(x) if type(x).__name__ == "Tensor" else x,
    "subclass": lambda m, x: m.more(x) if issubclass(type(x), torch.Tensor) else x,
    "torch.jit.isinstance": lambda m, x: m.more(x) if torch.jit.isinstance(x, torch.Tensor) else x,
    "hasattr": lambda m, x: x if hasattr(x, "last_hidden_state") else m.more(x),
    "getattr": lambda m, x: m.more(getattr(x, "last_hidden_state", x)),
    "a tag": tagged,
    "Variable": lambda m, x: Variable(x) + Variable(torch.ones(1)),
    "float, ceil": padded_as_tensorflow_does,
    "floor": lambda m, x: F.adaptive_avg_pool2d(x, math.floor(x.shape[2] / 2)),
    "trunc": lambda m, x: F.adaptive_avg_pool2d(x, math.trunc(x.shape[2] / 2)),
}


@pytest.mark.parametrize("name", ASKED)
def test_questions_are_answered_for_the_value(name: str) -> None:
    def model() -> Around:
        return Around(ASKED[name], more=nn.Conv2d(4, 4, 3, padding=1))

    small = fxscale.downscale(model(), 8, target_size=12, keep=["*"])
    assert_same_outputs(small, model(), torch.randn(2, 3, 8, 8))
