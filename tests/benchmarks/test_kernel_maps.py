"""Every map on the pre-train networks of the Tiny ImageNet benchmark in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import _tiny_imagenet_training, kernel_maps
from benchmarks.kernel_maps import maps
from fxscale.errors import FxscaleError
from tests.benchmarks.tiny_images import run_tiny_imagenet, write_images

NAMES = [
    "bilinear",
    "bicubic",
    "adjoint",
    "linear at the images' ratio",
    "cubic at the images' ratio",
    "least squares",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_image_keeps_its_response(name: str) -> None:
    for n_in, n_out in ((2, 3), (5, 7)):
        kernel = maps(64 / 46)[name](n_in, n_out).sum(1) * n_in / n_out  # of a constant kernel
        torch.testing.assert_close(kernel.sum(), torch.tensor(n_in, dtype=torch.float64))
        torch.testing.assert_close(kernel.flip(0), kernel)


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_tiny_imagenet_training, "ROUNDS", 1)
    images = write_images(tmp_path)
    run_tiny_imagenet(images, tmp_path)

    run(images, tmp_path)

    content = json.loads((tmp_path / "kernel_maps.json").read_text())
    assert [(s["map"], s["epoch"]) for s in content["shares"]] == [
        (name, epoch) for epoch in (1, 2) for name in NAMES
    ]
    assert "| least squares |" in capsys.readouterr().out


def test_nothing_to_enlarge(tmp_path: Path) -> None:
    with pytest.raises(FxscaleError, match=r"no checkpoints\. Run tiny_imagenet first"):
        run(tmp_path, tmp_path)


def run(data: Path, output: Path) -> None:
    kernel_maps.main(
        ["--data", str(data), "--checkpoints", str(output / "kept"), "--output", str(output)]
    )
