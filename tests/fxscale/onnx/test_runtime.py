from __future__ import annotations

import pytest
import torch

from fxscale import OnnxError
from fxscale.onnx import runtime
from fxscale.onnx.runtime import CPU, CUDA, choose_providers, seconds_per_sample

onnxruntime = pytest.importorskip("onnxruntime")


def test_cuda_is_taken_where_both_sides_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_provider, has_device in ((True, True), (True, False), (False, True)):
        available = [CUDA, CPU] if has_provider else [CPU]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda a=available: a)
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has_device: has)
        expected = [CUDA, CPU] if has_provider and has_device else [CPU]
        assert choose_providers(None) == expected


def test_providers_that_are_not_there_are_refused() -> None:
    assert choose_providers([CPU]) == [CPU]
    with pytest.raises(OnnxError, match=r"expected some of .*CPUExecutionProvider.*'NoProvider'"):
        choose_providers([CPU, "NoProvider"])
    with pytest.raises(OnnxError, match="found none"):
        choose_providers([])


def test_seconds_are_the_median_of_runs_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 0.0, 8.0, 0.0, 2.0, 0.0, 4.0])
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: next(clock))
    assert seconds_per_sample(lambda: None, batch_size=2) == 2.0
