"""Compiled networks against uncompiled ones; what compiling costs, and when graphs are replayed."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fxscale.training.observers import TrainingObserver
from fxscale.training.phase import compile_mode
from fxscale.training.progress import EpochResult, PhaseChange
from fxscale.training.run import train
from tests.fxscale.training.small_runs import Tiny, settings, source, tiny


def assert_trains_as_uncompiled(output: Path, accelerator: str = "cpu") -> None:
    options: dict[str, Any] = {
        "source": source(),
        "factory": lambda classes: Tiny(classes, dropout=0.0),  # compiled, it draws differently
        "accelerator": accelerator,
    }
    changes = {"epochs": 2, "milestones": (), "resize_at": "1", "average": 0.5}
    plain = train(settings(**changes), output / "plain", **options)
    compiled = train(settings(**changes, compile=True), output / "compiled", **options)

    assert compiled.changes[0].compile_seconds > 0 == plain.changes[0].compile_seconds
    for a, b in zip(plain.epochs, compiled.epochs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-3)
        assert a.test_loss == pytest.approx(b.test_loss, rel=1e-2)


def test_compiled_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As torch.compile does it, up to the code that it writes in the end, which takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    assert_trains_as_uncompiled(tmp_path)


def test_what_compiling_costs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it: nothing is compiled later, not for the smaller last batch of an evaluation."""
    calls = []

    def slow(graph: torch.fx.GraphModule, inputs: object) -> nn.Module:
        calls.append(time.sleep(0.05))
        return graph

    class Calls(TrainingObserver):
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def compiled(self, size: int, seconds: float) -> None:
            self.seen.append(("compiled", len(calls)))

        def change(self, change: PhaseChange) -> None:
            self.seen.append(("change", len(calls)))

        def epoch(self, result: EpochResult, outlook: object) -> None:
            self.seen.append(("epoch", len(calls)))

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=slow))
    observer = Calls()
    result = train(
        settings(compile=True, epochs=2, milestones=(), resize_at="1"),
        tmp_path,
        source=source(),
        factory=tiny,
        observers=(observer,),
        accelerator="cpu",
    )

    (_, first), (_, trained), (_, second), (_, end) = observer.seen
    assert [event for event, _ in observer.seen] == ["compiled", "epoch", "change", "epoch"]
    # In train and in eval mode, and for batches of 16 and of 14 images.
    assert trained == first >= 3
    assert end == second >= first + 3
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = next(line for line in lines if line["event"] == "compiled")
    changed = next(line for line in lines if line["event"] == "transition")
    assert (told["size"], told["steps"]) == (17, 0)
    assert told["seconds"] == result.compile_seconds >= 0.05 * first
    assert changed["compile_seconds"] >= 0.05 * (second - first)
    parts = [told["seconds"], changed["seconds"], *(epoch.seconds for epoch in result.epochs)]
    assert result.seconds == pytest.approx(sum(parts))


@pytest.mark.nightly
def test_compiled_networks_to_the_end(tmp_path: Path) -> None:
    assert_trains_as_uncompiled(tmp_path)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores", "ignore:The CUDA Graph is empty")
def test_compiled_networks_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From CUDA graphs: of two networks forward, backward, and an evaluation of each batch."""
    recorded = []
    record = torch.cuda.CUDAGraph.capture_begin

    def counted(graph: torch.cuda.CUDAGraph, *args: Any, **options: Any) -> None:
        recorded.append(graph)
        record(graph, *args, **options)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", counted)
    assert_trains_as_uncompiled(tmp_path, "cuda")
    assert len(recorded) >= 2 * (2 + 2)


@pytest.mark.parametrize(
    ("device", "processes", "accumulate", "expected"),
    [
        ("cuda", 1, 1, "reduce-overhead"),
        ("cuda", 1, 2, "default"),
        ("cuda", 2, 1, "default"),
        ("cpu", 1, 1, "default"),
    ],
)
def test_cuda_graphs_on_one_gpu(
    device: str, processes: int, accumulate: int, expected: str
) -> None:
    fabric: Any = SimpleNamespace(device=torch.device(device), world_size=processes)

    assert compile_mode(fabric, settings(accumulate=accumulate)) == expected
