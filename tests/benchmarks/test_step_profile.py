"""A smoke test on a network of two layers, and the kinds that operators count as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import step_profile
from benchmarks._step import Settings
from benchmarks.step_profile import OTHER, Profile, kind_of, measure, report
from fxscale.training import SmallResNet


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::cudnn_convolution", "convolution, forward"),
        ("aten::convolution_backward", "convolution, backward"),
        ("aten::native_batch_norm_backward", "BatchNorm"),
        ("aten::max_pool2d_with_indices_backward", "pooling"),
        ("aten::threshold_backward", "activation"),
        ("aten::_foreach_add_", "optimizer"),
        ("aten::copy_", "padding and copies"),
        ("aten::mm", "matrix product"),
        ("aten::mean", OTHER),
    ],
)
def test_kinds(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_step_is_divided(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "create", lambda name: SmallResNet(3, 5, widths=(16, 32)))
    monkeypatch.setitem(step_profile.SIZES, "small", (64, 44))

    profiles = measure("small", Settings(torch.device(device), batch_size=2, repeats=2))

    assert list(profiles) == ["target", "progressive", "pretrain"]
    for profile in profiles.values():
        assert profile.kinds["convolution, forward"] > 0
        assert profile.kinds["BatchNorm"] > 0
        assert profile.step > 0
    assert "(16, 16, 2, 2)" in "".join(profiles["pretrain"].convolutions)
    assert "(16, 16, 3, 3)" in "".join(profiles["target"].convolutions)


def test_report() -> None:
    target = Profile(8.0, {"BatchNorm": 3.0, OTHER: 1.0}, {})
    pretrain = Profile(2.0, {"BatchNorm": 1.0}, {"forward (2, 3, 8, 8) * (4, 3, 2, 2)": 0.5})

    rows = report("a", {"target": target, "pretrain": pretrain}).splitlines()

    assert rows[4:8] == [
        "| step | 8.00 | - | 2.00 | 4.00× |",
        "| BatchNorm | 3.00 | - | 1.00 | 3.00× |",
        "| other | 1.00 | - | 0.00 | - |",
        "| device busy | 50 % | - | 50 % |  |",
    ]
    assert rows[-1] == "| forward (2, 3, 8, 8) * (4, 3, 2, 2) | 0.500 |"


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "create", lambda name: SmallResNet(3, 5, widths=(16, 32)))
    step_profile.main(
        ["--models", "torchvision/resnet34", "--device", "cpu", "--batch-size", "2",
         "--repeats", "1", "--output", str(tmp_path)]
    )  # fmt: skip

    content = json.loads((tmp_path / "step_profile.json").read_text())
    assert list(content["profiles"]) == ["torchvision/resnet34"]
    assert (tmp_path / "step_profile.md").read_text().startswith("# Where a training step's time")
