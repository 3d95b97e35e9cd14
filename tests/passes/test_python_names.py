"""When the names that Python code uses may answer for proxies."""

from __future__ import annotations

from typing import Any

import pytest

from fxscale.passes.python_names import only_called

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
    assert only_called("int", module(source))


@pytest.mark.parametrize("source", OTHER_USES)
def test_a_name_that_stands_for_a_class(source: str) -> None:
    assert not only_called("int", module(source))


def module(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "somewhere"}
    exec(source, namespace)
    return namespace
