"""The registry: own layers in a few lines, duplicates refused, arguments by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import Annotation
from fxscale.passes.ops import registry
from fxscale.passes.ops.registry import Call, handles, lookup, per_axis, registered_leaves
from tests.passes.networks import Around, assert_same_outputs, traced


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations of a test end with it."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def keep(call: Call) -> Annotation:
    return call.annotation("input")


class Running(nn.Module):
    """A layer with an operator that the compiler does not know, but keeps the shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logcumsumexp(x, 3) / x.shape[3]


def test_an_own_layer() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        out: Tensor = m.running(x)
        return out.mean((2, 3))

    model = Around(body, running=Running())
    with pytest.raises(UnsupportedModelError, match="the operator logcumsumexp is not known"):
        fxscale.downscale(model, 8, target_size=12)
    with pytest.raises(UnsupportedModelError, match="the operator Running is not known"):
        fxscale.downscale(model, 8, target_size=12, leaf_modules=[Running])
    fxscale.register(Running)(keep)
    small = fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, Around(body, running=Running()), torch.randn(2, 3, 8, 8))


def test_a_registered_leaf_type() -> None:
    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    fxscale.register(Scale)(keep)
    assert Scale in registered_leaves()
    model = Around(lambda m, x: m.scale(x), scale=Scale())
    small = fxscale.downscale(model, 8, target_size=12)
    assert [n.target for n in small.graph.nodes if n.op == "call_module"] == ["conv", "scale"]


def test_duplicates_name_both() -> None:
    with pytest.raises(ValueError, match=r"has two handlers: keep_shape and keep"):
        handles(nn.ReLU)(keep)


def test_lookup_of_the_unhashable() -> None:
    class Unhashable:
        __hash__ = None

    assert lookup(Unhashable()) is None


def test_per_axis() -> None:
    assert per_axis(3, 2) == (3, 3)
    assert per_axis((3,), 2) == (3, 3)
    assert per_axis([1, 2], 2) == (1, 2)
    assert per_axis("same", 2) == ("same", "same")


def call_of(body: Any, params: str) -> Call:
    network = traced(Around(body))
    node = list(network.graph.nodes)[-1]
    from fxscale.passes.annotate import Annotator
    from fxscale.passes.weight_layouts import lay_out_weights

    annotator = Annotator(network, lay_out_weights(network), {})
    annotator.run()
    return Call(node, tuple(params.split()), annotator)


def test_arguments_by_position_and_by_name() -> None:
    for body in (
        lambda m, x: torch.flatten(x, 1, 2),
        lambda m, x: torch.flatten(x, start_dim=1, end_dim=2),
    ):
        call = call_of(body, "input start_dim end_dim")
        assert (call.value("start_dim"), call.value("end_dim")) == (1, 2)
        assert str(call.annotation("input")) == "(2) (4) (~12) (~12)"
    assert call.place("end_dim") == "end_dim"
    assert call.value("end_dim", 7) == 2


def test_starred_arguments() -> None:
    for body in (lambda m, x: x.permute(0, 2, 3, 1), lambda m, x: x.permute((0, 2, 3, 1))):
        assert tuple(call_of(body, "input *dims").value("dims")) == (0, 2, 3, 1)


def test_refusals_name_operator_and_place() -> None:
    call = call_of(lambda m, x: torch.relu(x), "input")
    error = call.refuse("a reason", "a remedy")
    assert error.source is not None
    path, _, line = error.source.rpartition(":")
    assert path == __file__
    assert "torch.relu(x)" in Path(path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    where = f"at node 'relu' ({error.source})"
    assert str(error) == f"unsupported model {where}: relu: a reason. Remedy: a remedy."


def test_an_argument_that_is_no_tensor() -> None:
    call = call_of(lambda m, x: torch.flatten(x, 1), "input start_dim")
    with pytest.raises(UnsupportedModelError, match="argument 'start_dim' is not a tensor"):
        call.dims("start_dim")
