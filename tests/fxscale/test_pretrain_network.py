"""`PretrainNetwork`: copying, pickling and the two graphs."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxscale


class Branching(nn.Module):
    """Two different graphs, and an attribute that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, padding=2)
        self.drop = nn.Dropout(0.5)
        self.classes = ["cat", "dog"]

    def forward(self, image: Tensor) -> Any:
        maps = self.drop(self.conv(image))
        return {"maps": maps, "mean": maps.mean()} if self.training else F.relu(maps)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, image: Tensor) -> Any:
        return self.conv(image)


def compiled(model: nn.Module) -> fxscale.PretrainNetwork:
    return fxscale.downscale(model, 8, target_size=12)


def test_it_is_a_graph_module_with_the_targets_name_and_attributes() -> None:
    small = compiled(Branching())
    assert isinstance(small, fx.GraphModule)
    assert type(small).__name__ == "Branching"
    assert small.classes == ["cat", "dog"]
    small.graph.lint()


@pytest.mark.parametrize("model", [Branching(), Plain()])
def test_the_signature_is_the_targets(model: nn.Module) -> None:
    small = compiled(model)
    assert list(inspect.signature(small.forward).parameters) == ["image"]
    image = torch.randn(2, 3, 8, 8)
    small.eval()
    assert torch.equal(small(image=image), small(image))


@pytest.mark.parametrize("carry", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(carry: Any) -> None:
    small = compiled(Branching())
    twin = carry(small)
    assert set(twin.train()(torch.randn(1, 3, 8, 8))) == {"maps", "mean"}
    image = torch.randn(1, 3, 8, 8)
    before = small.eval()(image)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(small(image), before)
    assert torch.equal(twin.eval()(image), torch.zeros(1, 4, 8, 8))
    twin.classes.append("bird")
    assert small.classes == ["cat", "dog"]
    assert twin.plan == small.plan


def test_copies_keep_what_was_shared() -> None:
    conv = nn.Conv2d(3, 3, 5, padding=2)
    small = fxscale.downscale(nn.Sequential(conv, conv), 8, target_size=12)
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert twin.get_submodule("0") is twin.get_submodule("1")
        assert len(list(twin.parameters())) == 2


def test_a_network_inside_another_module() -> None:
    outer = nn.Sequential(compiled(Branching()), nn.Identity())
    assert isinstance(outer(torch.randn(1, 3, 8, 8)), dict)
    assert isinstance(outer.eval()(torch.randn(1, 3, 8, 8)), Tensor)
    twin = copy.deepcopy(outer)
    assert isinstance(twin.train()(torch.randn(1, 3, 8, 8)), dict)
    assert isinstance(outer(torch.randn(1, 3, 8, 8)), Tensor)


def test_hooks_and_edits_of_the_graph() -> None:
    small = compiled(Plain())
    seen: list[torch.Size] = []
    small.get_submodule("conv").register_forward_hook(lambda m, a, out: seen.append(out.shape))
    small(torch.zeros(1, 3, 8, 8))
    assert seen == [torch.Size((1, 4, 8, 8))]
    (output,) = (node for node in small.graph.nodes if node.op == "output")
    with small.graph.inserting_before(output):
        doubled = small.graph.call_function(torch.mul, (output.args[0], 0))
    output.args = (doubled,)
    small.recompile()
    assert small(torch.randn(1, 3, 8, 8)).abs().sum() == 0


def test_two_networks_do_not_share_a_class() -> None:
    first, second = compiled(Branching()), compiled(Plain())
    assert type(first) is not type(second)
    assert isinstance(second(torch.randn(1, 3, 8, 8)), Tensor)
    assert isinstance(first(torch.randn(1, 3, 8, 8)), dict)


def test_moving_and_casting() -> None:
    small = compiled(Branching()).to(torch.float64).eval()
    assert small(torch.randn(1, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64
    assert all(p.is_meta for p in copy.deepcopy(small).to("meta").parameters())


def test_a_meta_target() -> None:
    with torch.device("meta"):
        target = Plain()
    small = compiled(target)
    assert small.get_parameter("conv.weight").is_meta
    assert small.get_parameter("conv.weight").shape == (4, 3, 3, 3)


@pytest.mark.parametrize("name", ["code", "graph", "meta", "plan"])
def test_names_of_our_own_are_refused_and_free_further_inside(name: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Conv2d(3, 4, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.get_submodule(name)(x)
            return result

    with pytest.raises(fxscale.UnsupportedModelError, match=f"the model's own '{name}'"):
        fxscale.downscale(Named(), 8, target_size=12)
    small = fxscale.downscale(nn.Sequential(Named()), 8, target_size=12)
    small = copy.deepcopy(small)
    assert small.get_submodule(f"0.{name}").kernel_size == (2, 2)
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 4, 8, 8)
