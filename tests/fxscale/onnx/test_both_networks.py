"""Both networks of four kinds of models, exported and held against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import fxscale
from fxscale.models.registry import create
from tests.fxscale.onnx.networks import UNet, settle

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


class Depthwise(nn.Sequential):
    """Depthwise separable convolutions, as in MobileNet."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.Hardswish(),
            nn.Conv2d(16, 32, 1, bias=False),
            nn.Conv2d(32, 32, 5, stride=2, padding=2, groups=32, bias=False),
            nn.BatchNorm2d(32),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


def check_both(target: nn.Module, input_size: int, target_size: int, folder: Path) -> None:
    small = fxscale.downscale(settle(target), input_size, target_size=target_size)
    settle(small)
    fxscale.export_onnx(small, folder / "small.onnx")
    report = fxscale.validate_onnx(folder / "small.onnx", small)
    assert report.equal, str(report)
    target.load_state_dict(fxscale.upscale_state(small))
    fxscale.export_onnx(target, folder / "full.onnx", plan=small.plan)
    report = fxscale.validate_onnx(folder / "full.onnx", target)
    assert report.equal, str(report)


@pytest.mark.parametrize("factory", [UNet, Depthwise])
def test_small_networks(factory: Callable[[], nn.Module], tmp_path: Path) -> None:
    check_both(factory(), 32, 48, tmp_path)


@pytest.mark.slow
def test_resnet34(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    check_both(create("resnet34"), 160, 224, tmp_path)


@pytest.mark.slow
def test_overfeat_fast(tmp_path: Path) -> None:
    check_both(create("overfeat_fast"), 147, 231, tmp_path)
