"""Where a refusal says that it happened."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError, in_words
from fxscale.passes.refusal import SOURCE, place
from tests.passes.networks import Around, traced


class Transformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.fft.fft2(x).abs()  # the line that is named


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return {}[len(y.shape)]


def line_of(error: UnsupportedModelError) -> str:
    assert error.source is not None
    path, _, line = error.source.rpartition(":")
    assert path == __file__
    return Path(path).read_text(encoding="utf-8").splitlines()[int(line) - 1].strip()


def test_the_line_of_the_operator() -> None:
    outer = nn.Sequential(nn.Identity(), Transformed())
    with pytest.raises(UnsupportedModelError) as caught:
        fxscale.downscale(outer, 8, target_size=12)
    error = caught.value
    assert line_of(error).startswith("return torch.fft.fft2(x).abs()")
    assert (error.node, error.module) == ("fft_fft2", "1")
    assert f"at node 'fft_fft2' in module '1' ({error.source}): " in str(error)


def test_the_line_where_python_failed() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be traced: KeyError") as caught:
        fxscale.downscale(Failing(), 8, target_size=12)
    assert line_of(caught.value).startswith("return {}[len(y.shape)]")


def test_children_of_a_sequential_have_no_line_of_their_own() -> None:
    network = traced(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    node = next(node for node in network.graph.nodes if node.op == "call_module")
    assert node.meta[SOURCE] is None
    assert place(node) == "at node '_0' in module '0'"


def test_nothing_of_the_compiler_or_torch_is_named() -> None:
    network = traced(Around(lambda m, x: torch.nn.functional.adaptive_avg_pool2d(x, 1)))
    sources = [n.meta[SOURCE] for n in network.graph.nodes if n.op.startswith("call")]
    assert sources
    for source in sources:
        assert Path(source.rpartition(":")[0]).name in ("networks.py", Path(__file__).name)


def test_a_place_in_words() -> None:
    assert (
        in_words("add", "layer1.0", "net.py:3") == "at node 'add' in module 'layer1.0' (net.py:3)"
    )
    assert in_words(None, "layer1", None) == "in module 'layer1'"
    assert in_words(None, None, None) == ""


def test_errors_survive_pickling() -> None:
    error = UnsupportedModelError("r", remedy="m", node="n", module="p", source="f.py:1")
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert (
        str(again)
        == str(error)
        == "unsupported model at node 'n' in module 'p' (f.py:1): r. Remedy: m."
    )
