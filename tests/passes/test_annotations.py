"""Annotations of plain values, and questions to any annotation."""

from __future__ import annotations

import pytest
import torch

from fxscale.errors import UnsupportedModelError
from fxscale.passes.annotations import (
    carries_size,
    check_shape,
    fixed_annotation,
    is_tensor_annotation,
)
from fxscale.passes.axes import Axis, Extent, SelfSized, Shape
from tests.passes.networks import Around, traced


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


def test_what_sizes_itself_is_marked() -> None:
    found = fixed_annotation((torch.zeros(4), None), SelfSized)
    assert isinstance(found[0], SelfSized)
    assert not isinstance(fixed_annotation(torch.zeros(4)), SelfSized)


def test_a_handler_that_is_wrong_about_a_shape() -> None:
    (node,) = (n for n in traced(Around(lambda m, x: x)).graph.nodes if n.name == "conv")
    check_shape(node, fixed_annotation(torch.zeros(2, 4, 12, 12)))
    with pytest.raises(UnsupportedModelError, match=r"expected the shape \(2, 4, 12, 11\)"):
        check_shape(node, fixed_annotation(torch.zeros(2, 4, 12, 11)))
