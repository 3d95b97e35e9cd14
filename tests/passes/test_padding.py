"""Where solved paddings go: into layers as far as calls share them, else in front of the calls."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.passes.axes import Window
from fxscale.passes.geometry import Geometry
from fxscale.passes.padding import Paddings, place_paddings
from fxscale.passes.sites import find_sites
from fxscale.plan import Padding
from tests.passes.networks import annotated, pad_nodes, traced


def placed(
    model: nn.Module, kernel_size: tuple[int, ...], calls: Sequence[Padding]
) -> tuple[Paddings, tuple[int, ...] | None, list[Padding | None]]:
    """`place_paddings` for a model with one kernel, whose calls were solved to need `calls`.

    Returns its result, the layer's padding, and what goes in front of every call.
    """
    network = annotated(model)
    sites = find_sites(traced(model).model, network)
    (convolution,) = sites.convolutions
    windows = [event for event in network.events if isinstance(event, Window)]
    nodes = [call.node for call in convolution.calls]
    chosen = {w: calls[nodes.index(w.node)][w.position] for w in windows}
    geometry = Geometry({}, {}, {}, chosen, ())
    result = place_paddings(sites, {convolution.weight: kernel_size}, geometry)
    assert [result.calls[node] for node in nodes] == list(calls)
    return result, result.layers[convolution.weight], [result.extra.get(node) for node in nodes]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.relu(self.conv(x)))
        return result


def once(padding: int | str = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 2, 3, padding=padding))


@pytest.mark.parametrize(
    ("wanted", "layer", "extra"),
    [
        (((1, 1), (1, 1)), (1, 1), None),
        (((0, 0), (1, 1)), (0, 1), None),
        (((1, 0), (1, 1)), (0, 1), ((1, 0), (0, 0))),
        (((1, 0), (0, 1)), (0, 0), ((1, 0), (0, 1))),
        (((-1, -1), (2, 2)), (0, 2), ((-1, -1), (0, 0))),
        (((0, -1), (0, 0)), (0, 0), ((0, -1), (0, 0))),
    ],
)
def test_what_is_symmetric_goes_into_the_layer(
    wanted: Padding, layer: tuple[int, int], extra: Padding | None
) -> None:
    _, found, rest = placed(once(), (2, 2), [wanted])
    assert found == layer
    assert rest == [extra]


@pytest.mark.parametrize("padding", [1, "same"])
def test_a_layer_that_does_not_change_is_left_alone(padding: int | str) -> None:
    result, layer, rest = placed(once(padding), (3, 3), [((1, 1), (1, 1))])
    assert layer is None
    assert rest == [None]
    assert result.extra == {}


def test_a_kernel_that_stays_may_still_need_another_padding() -> None:
    _, layer, rest = placed(once("same"), (3, 3), [((0, 0), (1, 1))])
    assert layer == (0, 1)
    assert rest == [None]


@pytest.mark.parametrize(
    ("first", "second", "layer", "extra"),
    [
        (((1, 1),) * 2, ((1, 1),) * 2, (1, 1), [None, None]),
        (((1, 1),) * 2, ((0, 0),) * 2, (0, 0), [((1, 1),) * 2, None]),
        (((1, 1), (1, 1)), ((1, 1), (0, 1)), (1, 0), [((0, 0), (1, 1)), ((0, 0), (0, 1))]),
    ],
)
def test_a_layer_called_twice_takes_what_its_calls_share(
    first: Padding, second: Padding, layer: tuple[int, int], extra: list[Padding | None]
) -> None:
    _, found, rest = placed(Twice(), (2, 2), [first, second])
    assert found == layer
    assert rest == extra


def test_a_transposed_convolution_cannot_be_padded_in_front() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 2, 3, padding=1))
    with pytest.raises(fxscale.UnsupportedModelError, match="padding that its calls do not share"):
        placed(model, (2, 2), [((1, 0), (1, 1))])


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_pad_operators_pad_as_their_layer_does(mode: str) -> None:
    """A lone 3x3 kernel: the 2x2 kernel's one-sided padding stands in front of it."""
    target = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode), nn.ReLU())
    small = fxscale.downscale(target, 10, target_size=14)
    (call,) = small.plan.convs[0].calls
    conv = small.get_submodule("0")
    assert isinstance(conv, nn.Conv2d)
    amounts = [p for pair in reversed(call.pretrain_padding) for p in pair]
    x = torch.randn(2, 2, 10, 10)
    padded = F.pad(x, amounts, mode="constant" if mode == "zeros" else mode)
    expected = F.relu(F.conv2d(padded, conv.weight, conv.bias))
    torch.testing.assert_close(small(x), expected)
    assert len(pad_nodes(small)) == len(small.plan.pad_operators) == call.pad_operator
