"""torch drops a last window that begins in the padding; ONNX's shape inference counts it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from torch import Tensor, nn

import fxscale

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

KERNELS = [(k, s, p) for k, s, p in product((2, 3), (2, 3), (0, 1)) if p <= k // 2]


class Pools(nn.Module):
    """Pools with every kernel size, stride and padding, beside one another."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.pools = nn.ModuleList(
            kind(k, s, p, ceil_mode=ceil) for k, s, p in KERNELS for ceil in (False, True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv(x)
        return [pool(x) for pool in self.pools]


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (nn.MaxPool2d, (8, 9)),  # with stride 3 and padding, one is dropped and another completed
        (nn.AvgPool2d, (8, 11)),
    ],
)
def test_windows_are_torchs(kind: type[nn.Module], size: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "pools.onnx"
    network = Pools(kind)
    fxscale.export_onnx(network, file, input_size=size)
    report = fxscale.validate_onnx(file, network)
    assert report.equal, report


def test_a_ceil_mode_that_completes_windows_stays(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True))
    fxscale.export_onnx(network, tmp_path / "pool.onnx", input_size=5)
    (pool,) = (n for n in onnx.load(tmp_path / "pool.onnx").graph.node if n.op_type == "MaxPool")
    assert {a.name: a.i for a in pool.attribute}["ceil_mode"] == 1
