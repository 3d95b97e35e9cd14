"""The annotate pass: every tensor's axes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import Axis, pretrain_length, target_length
from tests.passes.networks import Around, annotated, image_axes, layout


def test_axes_of_a_feature_map() -> None:
    network = annotated(Around(lambda m, x: x.flatten(1)))
    assert layout(network, "x") == "(2) (3) (~12) (~12)"
    assert layout(network, "conv") == "(2) (4) (~12) (~12)"
    assert layout(network, "flatten") == "(2) (4 ~12 ~12)"


def test_axes_after_a_permutation() -> None:
    network = annotated(Around(lambda m, x: x.permute(0, 2, 3, 1).flatten(1, 2)))
    assert layout(network, "permute") == "(2) (~12) (~12) (4)"
    assert layout(network, "flatten") == "(2) (~12 ~12) (4)"


def test_a_window_that_changes_nothing_keeps_the_axis() -> None:
    network = annotated(Around(lambda m, x: m.point(x), point=nn.Conv2d(4, 5, 1)))
    conv, point = (site for site in network.convs)
    assert conv.outputs == point.inputs == point.outputs
    assert conv.outputs[0] != (image_axes(network)[0],)


def test_an_operator_without_a_handler_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="is not known to the compiler") as info:
        annotated(Around(lambda m, x: torch.logcumsumexp(x, 3)))
    assert "logcumsumexp" in info.value.reason
    assert info.value.node == "logcumsumexp"
    assert "register" in info.value.remedy


def test_an_operator_without_a_handler_is_fine_behind_global_pooling() -> None:
    network = annotated(Around(lambda m, x: torch.cumsum(x.mean((2, 3)), 1)))
    assert layout(network, "cumsum") == "(2) (4)"


class AnotherShape(nn.Identity):
    """Claims to be known (see the registration below), computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2]


def test_a_handler_that_errs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxscale.passes.ops import registry

    known = registry.lookup(nn.Identity)
    monkeypatch.setitem(registry._REGISTRY, AnotherShape, known)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), AnotherShape())
    network = __import__("tests.passes.networks", fromlist=["traced"])
    from fxscale.passes.annotate import annotate

    traced = network.traced(model, leaves=registry.registered_leaves())
    with pytest.raises(
        UnsupportedModelError,
        match=r"the compiler expected the shape \(2, 4, 12, 12\), the model computes \(2, 2, 12",
    ):
        annotate(traced)


def test_lengths_of_products() -> None:
    height, width, channels = Axis(6, spatial=True), Axis(5, spatial=True), Axis(3, spatial=False)
    dim = (channels, height, width)
    assert target_length(dim) == 90
    assert pretrain_length(dim, {height: 4, width: 2}) == 24
    assert target_length(()) == 1
