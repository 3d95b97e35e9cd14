"""What values depend on: images, sizes, or neither; and which constants have no order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxscale.passes.annotate import Annotator
from fxscale.passes.origins import Origin, has_no_order
from fxscale.passes.weight_layouts import lay_out_weights
from tests.passes.networks import Around, traced


class State(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.weight = nn.Parameter(torch.randn(12))
        self.register_buffer("index", torch.arange(12))
        self.register_buffer("mask", torch.full((12,), float("-inf")))
        self.register_buffer("sines", torch.randn(12).sin())

    def forward(self, x: Tensor) -> Any:
        looked_up = self.weight[self.index]
        row = torch.arange(x.shape[3])
        return (
            looked_up * 2,
            self.mask + self.weight,
            self.weight.masked_fill(self.index > 3, float("-inf")),
            self.sines.clone(),
            row + self.weight,
            self.conv(x) * looked_up,
            x.new_zeros(1),
        )


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    network = traced(State())
    found = Annotator(network, lay_out_weights(network, skip={}), {})
    found.run()
    return found


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("x", Origin.IMAGE),
        ("weight", Origin.CONSTANT),
        ("mul", Origin.CONSTANT),
        ("add", Origin.CONSTANT),
        ("arange", Origin.SIZE),
        ("add_1", Origin.SIZE),
        ("mul_1", Origin.IMAGE),
    ],
)
def test_origins(annotator: Annotator, name: str, origin: Origin) -> None:
    assert {node.name: found for node, found in annotator.origins.items()}[name] is origin


@pytest.mark.parametrize(
    ("name", "expected"),
    [("index", True), ("mul", False), ("add", True), ("masked_fill", True), ("clone", False)],
)
def test_masks_and_indices_have_no_order(
    annotator: Annotator, name: str, *, expected: bool
) -> None:
    (node,) = (n for n in annotator.network.graph.nodes if n.name == name)
    assert has_no_order(node, annotator.network.model, annotator.origins) is expected


def test_a_size_of_channels_is_no_size_of_the_image() -> None:
    network = traced(Around(lambda m, x: x * torch.ones((x.shape[1], 1, 1))))
    found = Annotator(network, lay_out_weights(network, skip={}), {})
    found.run()
    by_name = {node.name: origin for node, origin in found.origins.items()}
    assert by_name["ones"] is Origin.CONSTANT


def test_an_infinity_before_a_size_was_read_says_nothing_of_what_is_made_from_it() -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return x * torch.ones((x.masked_fill(x > 1, float("-inf")).shape[1], 1, 1))

    network = traced(Around(forward))
    found = Annotator(network, lay_out_weights(network, skip={}), {})
    found.run()
    (ones,) = (node for node in network.graph.nodes if node.target is torch.ones)
    assert not has_no_order(ones, network.model, found.origins)
