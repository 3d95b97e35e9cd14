from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import onnx_zoo
from benchmarks.onnx_zoo import Outcome, measure, model_names, read, summary, wake, without_folders
from fxscale.errors import ModelNotFoundError
from fxscale.training import SmallResNet

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


class Untranslatable(nn.Module):
    """The compiler takes a layer that is called as it is; the exporter does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.zeta(self.conv(x), 2.0)


def small() -> nn.Module:
    network = SmallResNet(3, 5, widths=(16, 32), interface=16)
    network.default_cfg = {"input_size": (3, 64, 64)}
    return network


def test_messages_name_no_folder_of_this_machine() -> None:
    words = "at node 'a' (/home/me/lib/python3.11/site-packages/timm/layers/x.py:3): no handler"
    assert without_folders(words) == "at node 'a' (timm/layers/x.py:3): no handler"


def test_both_networks_in_every_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_zoo, "create", lambda name: small())
    outcomes = list(measure("small", onnx_zoo.VARIANTS, {("small", "pretrain", "float16")}))
    assert [o.key for o in outcomes] == [
        ("small", "pretrain", "float32"),
        ("small", "pretrain", "channels_last"),
        *(("small", "target", variant) for variant in onnx_zoo.VARIANTS),
    ]
    for outcome in outcomes:
        assert outcome.outcome == "equal", outcome
        assert outcome.inverse is not None
        assert outcome.inverse < 1e-5


def test_refusals_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> nn.Module:
        raise ModelNotFoundError("there is no model 'x'")

    monkeypatch.setattr(onnx_zoo, "create", missing)
    (first, _) = measure("x", ["float32"], set())
    assert (first.outcome, first.detail) == ("refused", "there is no model 'x'")
    outcome, detail, _, _ = onnx_zoo.compare(Untranslatable(), (8, 8), "float32")
    assert outcome == "exporter"
    assert "torch.onnx cannot export Untranslatable" in detail


def test_nothing_stays_constant() -> None:
    network = small()
    wake(network)
    for name, parameter in network.named_parameters():
        assert parameter.unique().numel() > 1, name
    weight = network.get_parameter("norm.weight").detach()
    assert 0.75 <= float(weight.min()) <= float(weight.max()) <= 1.25


def test_lines_that_are_whole_are_read(tmp_path: Path) -> None:
    outcomes = [Outcome("a", "target", "float32", "equal", relative=1e-6)]
    onnx_zoo.write(tmp_path / "zoo.jsonl", outcomes)
    with (tmp_path / "zoo.jsonl").open("a") as file:
        file.write('{"model": "b", "netw')
    assert read(tmp_path / "zoo.jsonl") == outcomes
    assert read(tmp_path / "none.jsonl") == []


def test_summary_counts_and_names() -> None:
    text = summary(
        [
            Outcome("a", "pretrain", "float32", "equal", "", 1e-6, 1.0, 3e-7),
            Outcome("b", "pretrain", "float32", "different", "Conv of layer 'c'", 0.5),
            Outcome("c", "pretrain", "float32", "refused", "no\nhandler"),
        ]
    )
    assert "| pretrain, float32 | 1 | 1 | 0 | 0 | 1 | 50.0% | 1.0e-06 |" in text
    assert "- b, pretrain, float32: different: Conv of layer 'c'" in text
    assert "- c, pretrain, float32: refused: no handler" in text
    assert "largest relative error 3.0e-07" in text


def test_names_are_models() -> None:
    pytest.importorskip("torchvision")
    timm = pytest.importorskip("timm")
    names = model_names()
    families = [name.removeprefix("timm/") for name in names if name.startswith("timm/")]
    assert len(families) == len(set(families)) >= 60
    assert [name for name in families if not timm.is_model(name)] == []
    assert {"torchvision/alexnet", "torchvision/fcn_resnet50"} <= set(names)
    assert not any("swin" in name or "/vit" in name for name in names)


def test_command_line_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_zoo, "create", lambda name: small())
    command = ["--models", "small", "--variants", "float32", "--output", str(tmp_path)]
    onnx_zoo.main(command)
    lines = (tmp_path / "onnx_zoo.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["equal", "equal"]
    assert "| pretrain, float32 | 1 |" in (tmp_path / "onnx_zoo.md").read_text()

    monkeypatch.setattr(onnx_zoo, "create", None)  # nothing is measured twice
    onnx_zoo.main(command)
    onnx_zoo.main(["--table", "--output", str(tmp_path)])
    assert (tmp_path / "onnx_zoo.jsonl").read_text().splitlines() == lines
    assert "| target, float32 | 1 |" in capsys.readouterr().out
