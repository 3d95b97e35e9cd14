"""Modules in another mode than the network, as frozen backbones are: right, or refused.

The pre-train network is compiled at the target's own size with all kernels kept, so that it must
compute, and keep count, exactly as the target does in the same modes.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale

SIZE = 12
IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


class CountingBatchNorm(nn.BatchNorm2d):
    """BatchNorm with its code written out and an activation, as timm's `BatchNormAct2d`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        use_batch = True if self.training else self.running_mean is None
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, use_batch, 0.1, 1e-5
        )
        return F.relu(x)


class Dropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, 0.5, self.training)


class DropPath(nn.Module):
    """Drops half of the samples, with a branch on its mode."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(x.shape[0], 1, 1, 1, device=x.device) < 0.5)


class FirstOfTwo(nn.Module):
    """Computes the same in both modes, and returns something else."""

    def forward(self, x: Tensor) -> Tensor:
        low, high = F.relu(x), F.relu(-x)
        return low if self.training else high


class FirstOrSecondInput(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(x if self.training else y)


class Factor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (2.0 if self.training else 1.0)


class Told(nn.Module):
    def forward(self, x: Tensor, training: bool) -> Tensor:
        return F.dropout2d(x, 0.5, training)


class Teller(nn.Module):
    """Hands its own mode to a module of another mode."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told()

    def forward(self, x: Tensor) -> Tensor:
        return self.told(x, self.training)


class Network(nn.Module):
    def __init__(self, part: nn.Module, *, behind: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.first = behind or nn.Identity()
        self.part = part
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.first(self.conv(x))
        x = self.part(x, -x) if isinstance(self.part, FirstOrSecondInput) else self.part(x)
        return self.head(x.mean((2, 3)))


class WithAuxiliary(nn.Module):
    """The auxiliary head runs in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.part = nn.Sequential(Dropout(), nn.Flatten(), nn.Linear(8 * SIZE**2, 2))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        out = self.head(x.mean((2, 3)))
        return (out, self.part(x)) if self.training else out


class FrozenBackbone(Network):
    def train(self, mode: bool = True) -> FrozenBackbone:
        super().train(mode)
        self.part.eval()
        return self


def same_network(model: nn.Module) -> fxscale.PretrainNetwork:
    small = fxscale.downscale(model, SIZE, target_size=SIZE, keep=("*",))
    small.load_state_dict(model.state_dict())
    return small


def assert_same(model: nn.Module, small: nn.Module) -> None:
    """Two calls give the same and leave the same state."""
    for _ in range(2):
        torch.manual_seed(0)
        expected = model(IMAGES)
        torch.manual_seed(0)
        assert torch.equal(small(IMAGES), expected)
    found = small.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value), key


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm that counts": lambda: Network(CountingBatchNorm(8)),
    "BatchNorm that counts, behind a branch": lambda: Network(
        CountingBatchNorm(8), behind=DropPath()
    ),
    "layers behind a branch": lambda: Network(
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
        behind=DropPath(),
    ),
    "a flag behind a branch": lambda: Network(Dropout(), behind=DropPath()),
}


@pytest.mark.parametrize("name", RIGHT)
def test_frozen_parts(name: str) -> None:
    model = RIGHT[name]()
    small = same_network(model)
    for network in (model, small):
        network.train()
        network.get_submodule("part").eval()
    assert_same(model, small)
    for network in (model, small):
        network.train()
    assert_same(model, small)
    for network in (model, small):
        network.eval()
    assert_same(model, small)


def test_a_flag_in_train_mode_inside_a_network_in_eval_mode() -> None:
    model = Network(Dropout(), behind=DropPath())
    small = same_network(model)
    for network in (model, small):
        network.eval()
        network.get_submodule("part").train()
    assert_same(model, small)


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "a branch": lambda: Network(DropPath()),
    "what is returned": lambda: Network(FirstOfTwo()),
    "which input is used": lambda: Network(FirstOrSecondInput()),
    "a number": lambda: Network(Factor()),
    "the caller's mode": lambda: Network(Teller()),
    "not called in eval mode": WithAuxiliary,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_part_decided_by_its_mode(name: str) -> None:
    small = same_network(REFUSED[name]())
    small.train()
    small.get_submodule("part").eval()
    with pytest.raises(fxscale.UnsupportedModelError, match="'part' is in eval mode") as error:
        small(IMAGES)
    assert error.value.module == "part"
    assert "layers" in str(error.value.remedy)
    small.train()
    small(IMAGES)


def test_counting_inside_a_network_in_eval_mode_is_refused() -> None:
    small = same_network(Network(CountingBatchNorm(8))).eval()
    small.get_submodule("part").train()
    with pytest.raises(fxscale.UnsupportedModelError, match="'part' is in train mode"):
        small(IMAGES)


def test_the_targets_own_train() -> None:
    """It leaves a part in eval mode, branches and all."""
    model = FrozenBackbone(nn.Sequential(nn.BatchNorm2d(8), DropPath()))
    small = same_network(model)
    for network in (model, small):
        network.train()
        assert network.training
        assert network.get_submodule("head").training
        assert not network.get_submodule("part.0").training
    assert_same(model, small)
    for network in (model, small):
        network.eval()
    assert_same(model, small)
    small.train()
    small.get_submodule("part").train()
    with pytest.raises(fxscale.UnsupportedModelError, match="made with it in eval mode"):
        small(IMAGES)


@pytest.mark.parametrize("carry", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_know_the_modes(carry: Callable[[Any], Any]) -> None:
    small = carry(same_network(FrozenBackbone(nn.Sequential(nn.BatchNorm2d(8), DropPath()))))
    small.train()
    assert not small.get_submodule("part").training
    small(IMAGES)
    small.get_submodule("part").train()
    with pytest.raises(fxscale.UnsupportedModelError, match="decides by its own mode"):
        small(IMAGES)


def test_a_model_in_mixed_modes_is_compiled_and_says_so_when_it_is_called() -> None:
    model = Network(DropPath())
    model.part.eval()
    small = fxscale.downscale(model, 8, target_size=SIZE)
    with pytest.raises(fxscale.UnsupportedModelError, match="'part' is in eval mode"):
        small(IMAGES[..., :8, :8])
    assert small.train()(IMAGES[..., :8, :8]).shape == (4, 2)


def test_timms_batchnorm_frozen() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("tinynet_e", drop_path_rate=0.2, num_classes=3)
    small = fxscale.downscale(model, 64, target_size=64, keep=("*",))
    small.load_state_dict(model.state_dict())
    assert small._eval_graph is None  # its layers ask for their modes themselves
    images = torch.randn(2, 3, 64, 64)
    for network in (model, small):
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    torch.manual_seed(1)
    expected = model(images)
    torch.manual_seed(1)
    assert torch.equal(small(images), expected)
    assert torch.equal(small.bn1.num_batches_tracked, model.bn1.num_batches_tracked)
