"""The trace pass: both modes in one graph, the model untouched."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxscale.errors import UnsupportedModelError
from fxscale.modes import EVAL, TRAIN
from fxscale.passes.proxies import tensors_in
from tests.passes.networks import Around, traced


def names(network: Any, mode: bool) -> list[str]:
    return [node.name for node in network.order[mode]]


def test_modes_that_agree_share_every_node() -> None:
    network = traced(Around(lambda m, x: m.norm(x).relu(), norm=nn.BatchNorm2d(4)))
    assert network.modes_agree
    assert len(network.graph.nodes) == len(network.order[TRAIN])


def test_the_training_flag_is_read_from_the_module() -> None:
    network = traced(Around(lambda m, x: F.dropout(x, 0.5, m.training)))
    assert network.modes_agree
    flags = [node for node in network.graph.nodes if node.target == "training"]
    assert len(flags) == 1
    (dropout,) = (node for node in network.graph.nodes if node.target is F.dropout)
    assert flags[0] in dropout.all_input_nodes


def test_a_branch_on_the_mode_stays_in_its_mode() -> None:
    network = traced(Around(lambda m, x: torch.relu(x) if m.training else torch.tanh(x)))
    assert not network.modes_agree
    assert "relu" in names(network, TRAIN)
    assert "tanh" not in names(network, TRAIN)
    assert "tanh" in names(network, EVAL)
    assert names(network, TRAIN)[:2] == names(network, EVAL)[:2]  # the convolution stands once


def test_outputs_that_differ_between_the_modes() -> None:
    network = traced(Around(lambda m, x: (x, x.relu()) if m.training else x))
    assert isinstance(network.outputs[TRAIN], tuple)
    assert not isinstance(network.outputs[EVAL], tuple)


class WithDefault(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, scale: float = 2.0, pre_logits: bool = False) -> Tensor:
        x = self.conv(x)
        return x if pre_logits else x * scale


def test_defaults_are_constants() -> None:
    network = traced(WithDefault())
    assert [n.target for n in network.graph.nodes if n.op == "placeholder"] == ["x"]


def test_concrete_args_override_defaults() -> None:
    network = traced(WithDefault(), concrete_args={"pre_logits": True})
    assert [n.op for n in network.graph.nodes] == ["placeholder", "call_module"]


def test_the_model_is_shared_but_not_touched() -> None:
    model = Around(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(4)).train()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    network = traced(model)
    assert network.model is not model
    assert model.training
    assert not model.norm.training
    own = dict(model.named_parameters())
    named = network.model.named_parameters()
    assert all(p.data_ptr() == own[name].data_ptr() for name, p in named)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_that_cannot_be_copied() -> None:
    model = Around(lambda m, x: x)
    model.lock = threading.Lock()
    with pytest.raises(UnsupportedModelError, match=r"Around cannot be copied: .*lock"):
        traced(model)


class Averaging(nn.Module):
    """Counts its calls and keeps a moving average, as codebooks and momentum encoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("calls", torch.tensor(3))
        self.register_buffer("average", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.calls.add_(1)
        with torch.no_grad():
            self.average.mul_(0.9).add_(x.mean((0, 2, 3)), alpha=0.1)
        return x * self.average.view(1, -1, 1, 1)


@pytest.mark.parametrize("whole", [False, True])
def test_buffers_that_forward_writes_into_are_not_touched(whole: bool) -> None:
    model = nn.Sequential(Averaging(), nn.BatchNorm2d(4))
    before = copy.deepcopy(model.state_dict())
    network = traced(model, opaque_types=(Averaging,) if whole else ())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(b.requires_grad for b in network.model.buffers())


def test_a_piece_of_a_sequential_is_entered() -> None:
    layers = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    network = traced(Around(lambda m, x: m.layers[1:](m.layers[:1](x)), layers=layers))
    assert [n.target for n in network.graph.nodes if n.op == "call_module"] == [
        "conv", "layers.0", "layers.1", "layers.2",
    ]  # fmt: skip


def test_a_layer_that_forward_makes_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="forward makes 'Conv2d' itself"):
        traced(Around(lambda m, x: nn.Sequential(nn.Conv2d(4, 4, 3))(x)))


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Around(lambda m, x: x)

    def forward(self, x: Tensor) -> Any:
        return self.block(x)


def test_hooks_that_would_vanish_are_refused() -> None:
    model = Hooked()
    model.block.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(UnsupportedModelError, match="the module 'block' has hooks"):
        traced(model)


def test_hooks_of_leaf_modules_stay() -> None:
    model = Hooked()
    model.block.conv.register_forward_hook(lambda module, args, output: output * 2)
    assert traced(model).model.block.conv._forward_hooks


def test_what_python_raises_is_reported_with_its_class() -> None:
    def body(m: Around, x: Tensor) -> Tensor:
        raise ZeroDivisionError("of the author")

    with pytest.raises(UnsupportedModelError, match="ZeroDivisionError: of the author"):
        traced(Around(body))


def test_opaque_modules_are_not_entered() -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    model = Around(lambda m, x: m.head(x.mean((2, 3))), head=Opaque())
    with pytest.raises(UnsupportedModelError, match="contents"):
        traced(model)


def test_tensors_in_nested_values() -> None:
    a, b, c = (torch.zeros(n) for n in (1, 2, 3))
    assert list(tensors_in([a, {"x": (b, 1)}, None, c])) == [a, b, c]
