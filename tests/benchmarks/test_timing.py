from __future__ import annotations

import pytest
import torch

from benchmarks import _timing
from benchmarks._timing import WARM_UP, alternating_medians


def test_steps_take_turns_and_medians_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    order: list[str] = []
    slow = iter([9.0] * WARM_UP + [1.0, 5.0, 3.0])  # the warm-up is not counted

    def step_a() -> None:
        nonlocal clock
        order.append("a")
        clock += next(slow)

    def step_b() -> None:
        nonlocal clock
        order.append("b")
        clock += 2.0

    monkeypatch.setattr(_timing.time, "perf_counter", lambda: clock)

    medians = alternating_medians({"a": step_a, "b": step_b}, repeats=3, device=torch.device("cpu"))

    assert medians == {"a": 3.0, "b": 2.0}
    assert order == ["a", "b"] * (WARM_UP + 3)
