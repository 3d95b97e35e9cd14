"""The networks of a run, phase by phase."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fxscale.errors import SizeError
from fxscale.models import create
from fxscale.pretrain_network import PretrainNetwork
from fxscale.training.models import ModelFactory, costs, image_sizes, networks
from tests.fxscale.training.small_runs import Pooled, WideKernel, same, settings, tiny


def test_progressive_resizing_has_the_target_in_every_phase() -> None:
    chosen = settings(pretrain_sizes=(), progressive_sizes=(13, 17), resize_at="1,2")
    found = networks(chosen, Pooled, 2)

    torch.manual_seed(0)
    assert len(found) == 3
    assert all(network is found[0] for network in found)
    assert same(found[0], Pooled(2))  # not even BatchNorm's counters have moved
    assert found[0].training
    assert costs(found, chosen) == [13 * 13, 17 * 17, 24 * 24]


def test_an_adaptive_pool_lets_the_head_stay_as_it_is() -> None:
    """VGG's head is fully connected on 7 × 7 pixels, whatever the size of the image."""
    pytest.importorskip("torchvision")
    chosen = settings(target_size=64, pretrain_sizes=(), progressive_sizes=(46,))

    found = networks(chosen, lambda classes: create("torchvision/vgg11", num_classes=classes), 2)

    assert found[0].classifier[0].in_features == 512 * 7 * 7  # type: ignore[index, union-attr]


class HardCodedView(nn.Module):
    """Runs at half its size, too: on four images, for which it gives one answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4 * 12 * 12, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).relu().view(-1, 576))
        return logits


@pytest.mark.parametrize(
    ("factory", "size", "interface"), [(tiny, 17, 8 * 4 * 4), (lambda _: HardCodedView(), 12, 144)]
)
def test_a_head_of_fixed_size_is_resized(factory: ModelFactory, size: int, interface: int) -> None:
    chosen = settings(pretrain_sizes=(), progressive_sizes=(size,))
    small, target = networks(chosen, factory, 2)

    assert isinstance(small, PretrainNetwork)
    assert small.plan.pretrain_size == (size, size)
    assert all(c.pretrain_kernel_size == c.kernel_size for c in small.plan.convs)
    assert small.get_submodule("fc").in_features == interface
    assert small(torch.zeros(7, 3, size, size)).shape == (7, 2)
    assert costs([small, target], chosen) == [small.plan.pretrain_macs, small.plan.target_macs]


def test_where_neither_the_head_nor_the_kernels_fit_it_is_told() -> None:
    with pytest.raises(
        SizeError,
        match=r"progressive resizing is impossible: WideKernel, unchanged, .* of 17 px: .*; and "
        r"with another head: input size too small: .*too few for a kernel of 6",
    ):
        networks(settings(pretrain_sizes=(), progressive_sizes=(17,)), WideKernel, 2)


def test_small_kernels_then_small_images_with_a_head_of_fixed_size() -> None:
    chosen = settings(progressive_sizes=(17, 20), resize_at="1,2,3")
    plans = [n.plan for n in networks(chosen, tiny, 2) if isinstance(n, PretrainNetwork)]
    assert [plan.pretrain_size[0] for plan in plans] == [17, 17, 20]
    assert [plan.interfaces[0].pretrain_size[0] for plan in plans] == [4, 4, 5]
    assert [plan.convs[0].pretrain_kernel_size[0] for plan in plans] == [3, 5, 5]


def test_the_target_may_train_on_small_images_after_the_pretrain_network() -> None:
    chosen = settings(pretrain_sizes=(13, 17), progressive_sizes=(17,), resize_at="1,2,3")
    first, second, *target = networks(chosen, Pooled, 2)

    assert isinstance(first, PretrainNetwork)
    assert isinstance(second, PretrainNetwork)
    assert (first.plan.pretrain_size, second.plan.pretrain_size) == ((13, 13), (17, 17))
    assert len(target) == 2
    assert target[0] is target[1]
    macs = second.plan.target_macs
    assert costs([first, second, *target], chosen)[2:] == [round(macs * (17 / 24) ** 2), macs]


SOURCE = """
from torch import nn

def square():
    return nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4 * 20 * 20, 2))

def signal():
    return nn.Sequential(nn.Conv1d(3, 4, 5), nn.Flatten(), nn.Linear(4 * 20, 2))
"""


def test_sizes_that_nobody_gives_are_those_of_downscale(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    name = f"{tmp_path / 'net.py'}:square"
    assert image_sizes(name, None, None) == (24, (14,))  # 24 times 3/5
    assert image_sizes(name, None, None, kernels={"0": 4}) == (24, (14,))
    assert image_sizes(name, None, ()) == (24, ())
    assert image_sizes(name, 24, None) == (24, (14,))
    assert image_sizes("not built at all", 7, (5, 6)) == (7, (5, 6))
    with pytest.raises(SizeError, match="square"):
        image_sizes(f"{tmp_path / 'net.py'}:signal", None, None)
