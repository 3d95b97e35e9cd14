"""Graphs as plain data: what is written is what is read."""

from __future__ import annotations

import operator
import pickle
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxscale.portable_graph import FunctionReference, from_portable, to_portable

Pair = namedtuple("Pair", ["first", "second"])


class Net(nn.Module):
    """Every kind of node and argument: methods, functions, slices, tuples, keywords, defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.weight = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor, scale: float = 2.0) -> object:
        x = self.conv(x) * self.weight
        x = F.max_pool2d(x, 2, ceil_mode=True)[..., 1 : x.shape[-1]]
        y = torch.cat([x, F.interpolate(x, scale_factor=1.0)], dim=1)
        return {"out": (y.flatten(1), [x * scale, None])}


def round_trip(graph: fx.Graph) -> fx.Graph:
    return from_portable(pickle.loads(pickle.dumps(to_portable(graph))))


def test_nodes_are_the_same() -> None:
    graph = fx.symbolic_trace(Net()).graph
    again = round_trip(graph)
    assert [(n.op, n.name, n.target, str(n.args), str(n.kwargs)) for n in again.nodes] == [
        (n.op, n.name, n.target, str(n.args), str(n.kwargs)) for n in graph.nodes
    ]
    again.lint()


def test_it_computes_the_same() -> None:
    net = Net()
    again = fx.GraphModule(net, round_trip(fx.symbolic_trace(net).graph))
    image = torch.randn(2, 3, 10, 10)
    torch.testing.assert_close(again(image), net(image))
    torch.testing.assert_close(again(image, scale=3.0), net(image, scale=3.0))


@pytest.mark.parametrize(
    "function",
    [F.max_pool2d, F.adaptive_max_pool2d, F.interpolate, torch.add, operator.getitem, torch.relu_],
)
def test_functions_that_pickle_cannot_name(function: object) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(function, (x,)))
    again = round_trip(graph)
    assert [n.target for n in again.nodes if n.op == "call_function"] == [function]


def test_only_local_functions_are_referred_to_by_name() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(F.max_pool2d, (graph.call_function(F.relu, (x,)), 2)))
    targets = [record.target for record in to_portable(graph)]
    assert targets[1] is F.relu
    assert targets[2] == FunctionReference("torch.nn.functional", "max_pool2d")


def test_named_tuples_and_slices() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(Pair(graph.call_function(operator.getitem, (x, slice(None, x, 2))), x))
    again = round_trip(graph)
    *_, item, output = again.nodes
    assert isinstance(output.args[0], Pair)
    assert item.args[1] == slice(None, next(iter(again.nodes)), 2)
