from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

pytest.importorskip("torchvision")
pytest.importorskip("timm")
pytest.importorskip("pebble")

from benchmarks import _zoo_check, zoo
from benchmarks._zoo_check import Extent, WrongNetworkError, check
from benchmarks._zoo_entries import Entry
from benchmarks._zoo_report import report, summary
from fxscale.passes import pipeline

NOISE = [0.0]
"""State outside of torch: a trace, and the call that it is held against, see one value."""


class Net(nn.Module):
    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        NOISE[0] = noise
        self.layers = nn.Sequential(
            *(nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4)), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, FakeTensor | fx.Proxy):
            NOISE[0] *= 2
        result: Tensor = self.layers(x).flatten(1) + NOISE[0]
        return result


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).real


def checked(monkeypatch: pytest.MonkeyPatch, build: Any) -> dict[str, Any]:
    entry = Entry("timm/own", "own", (24, 24), build)
    monkeypatch.setattr(_zoo_check, "entry", lambda name: entry)
    return check("timm/own", Extent())


def test_a_right_network_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    record = checked(monkeypatch, Net)
    assert (record["status"], record["stage"], record["convs"]) == ("ok", "done", 3)
    assert record["outputs"] == [[[3, 4], [3, 4]]] * 2


def test_a_silent_difference_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    record = checked(monkeypatch, lambda: Net(0.25))
    assert (record["status"], record["stage"]) == ("wrong", "identity")
    assert "values differ" in record["reason"]


def test_refusals_and_crashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    record = checked(monkeypatch, Transformer)
    assert (record["status"], record["node"]) == ("refused", "fft_fft2")

    def crash(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "verify", crash)
        record = checked(patched, Net)
    assert (record["status"], record["stage"]) == ("wrong", "compile")
    assert record["reason"] == "the pass 'verify' failed on it: RuntimeError: a defect"

    monkeypatch.setattr(_zoo_check, "_compile", crash)
    record = checked(monkeypatch, Net)
    assert (record["status"], record["reason"]) == ("wrong", "RuntimeError: a defect")


def test_outputs_have_to_scale_like_the_images() -> None:
    compare = _zoo_check._compare_shape
    large = torch.Size((2, 21, 64, 64))
    compare(large, torch.Size((2, 21, 46, 46)), [0.72, 0.72])
    for wrong in ((2, 21, 30, 46), (2, 20, 46, 46), (1, 21, 46, 46), (2, 21, 46)):
        with pytest.raises(WrongNetworkError, match="expected like"):
            compare(large, torch.Size(wrong), [0.72, 0.72])


def killed_at_first(name: str, extent: Extent) -> dict[str, Any]:
    """A check whose worker the system kills, unless another one has been before."""
    path = Path(name)
    if path.exists():
        return {"name": path.name, "status": "ok"}
    path.touch()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still there")


def test_models_whose_worker_was_killed_are_checked_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "check", killed_at_first)
    names = [str(tmp_path / "a"), str(tmp_path / "b")]
    (tmp_path / "b").touch()
    records = list(zoo.checked(names, Extent(), workers=2))
    assert sorted(records, key=lambda r: r["name"]) == [
        {"name": "a", "status": "ok"},
        {"name": "b", "status": "ok"},
    ]
    (tmp_path / "a").unlink()
    (alone,) = zoo.checked(names[:1], Extent(), workers=1)
    assert alone["status"] == "wrong"
    assert "ProcessExpired" in alone["reason"]


def test_a_journal_forgets_what_is_to_be_checked_again(tmp_path: Path) -> None:
    lines = [{"name": "timm/a", "status": "ok"}, {"name": "timm/b", "status": "wrong"}]
    path = tmp_path / "zoo.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert zoo.Journal(path, ()).records.keys() == {"timm/a", "timm/b"}
    assert zoo.Journal(path, ("wrong",)).records.keys() == {"timm/a"}
    assert json.loads(path.read_text(encoding="utf-8")) == lines[0]


def test_the_report_counts() -> None:
    good = {"set": "timm", "family": "x", "convolves": True, "status": "ok", "checks": "all"}
    figures = {"convs": 3, "pad_operators": 0, "max_drift": 0.25, "mac_ratio": 4.0}
    records = [
        {"name": f"timm/{n}", "nodes": n, "seconds": n / 100, **good, **figures} for n in (10, 80)
    ]
    records.append({"name": "timm/z", "set": "timm", "status": "refused", "reason": "a | b"})
    counts = summary(records)
    assert counts["sets"]["timm, 3 convolutions or more"] == {"ok": 2}
    assert counts["seconds"]["power_of_nodes"] == pytest.approx(1)
    text = report(records, {"device": "a CPU"})
    assert "| timm, others | 0 | 1 | 0 | 0 | 0.0 % |" in text
    assert "a / b" in text
