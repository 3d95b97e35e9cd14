"""The annotate pass: every tensor's axes, and the lengths that torch itself computes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.annotate import (
    carries_size,
    fixed_annotation,
    is_tensor_annotation,
    window_length,
)
from fxscale.passes.axes import Axis, Extent, Shape, pretrain_length, target_length
from tests.passes.networks import Around, annotated, image_axes, layout


@settings(max_examples=200)
@given(
    length=st.integers(1, 30),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
def test_convolution_lengths_are_those_of_torch(
    length: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    found = window_length(length, kernel, stride, (padding, padding), dilation)
    if length + 2 * padding < dilation * (kernel - 1) + 1:
        assert found < 1
        return
    out = F.conv1d(
        torch.zeros(1, 1, length),
        torch.zeros(1, 1, kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    assert found == out.shape[-1]


@settings(max_examples=200)
@given(
    length=st.integers(1, 30),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
)
def test_pool_lengths_in_ceil_mode_are_those_of_torch(
    length: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    assume(padding <= kernel // 2)
    assume(length + 2 * padding >= dilation * (kernel - 1) + 1)
    out = F.max_pool1d(torch.zeros(1, 1, length), kernel, stride, padding, dilation, ceil_mode=True)
    found = window_length(length, kernel, stride, (padding, padding), dilation, ceil_mode=True)
    assert found == out.shape[-1]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "output_padding"),
    list(itertools.product((1, 2, 4), (1, 2, 3), (0, 1), (1, 2), (0, 1))),
)
def test_transposed_lengths_are_those_of_torch(
    kernel: int, stride: int, padding: int, dilation: int, output_padding: int
) -> None:
    if output_padding >= max(stride, dilation):
        output_padding = 0
    out = F.conv_transpose1d(
        torch.zeros(1, 1, 9),
        torch.zeros(1, 1, kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=output_padding,
    )
    found = window_length(
        9, kernel, stride, (padding, padding), dilation, False, True, output_padding
    )
    assert found == out.shape[-1]


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

    traced = network.traced(model, leaf_types=registry.registered_leaf_types())
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


def test_what_carries_a_size() -> None:
    spatial, fixed = (Axis(6, spatial=True),), (Axis(6, spatial=False),)
    assert carries_size([{"a": (Shape((spatial,)),)}])
    assert carries_size(Extent(spatial))
    assert not carries_size((Shape((fixed,)), Extent(fixed), None))
    assert is_tensor_annotation({"a": [Shape(())]})
    assert not is_tensor_annotation((Extent(spatial), None))


def test_fixed_annotations_keep_their_structure() -> None:
    found = fixed_annotation([torch.zeros(2, 1), {"a": torch.zeros(3)}, 7])
    assert str(found) == "((2) (), {'a': (3)}, None)"
