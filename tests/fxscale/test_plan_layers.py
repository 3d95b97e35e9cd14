from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.models import create
from fxscale.plan_layers import Layer, Side, layers


class Residual(nn.Module):
    """A lone convolution beside a strided pair, and what a linear layer reads of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 7, 2, 3)
        self.pool = nn.MaxPool2d(2)
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.lone = nn.Conv2d(4, 4, (3, 1), padding=(1, 0))
        self.fc = nn.Linear(2 * 4 * 8 * 8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(self.stem(image)).relu()
        y = self.b(self.norm(self.a(x)).relu()) + x
        z = torch.cat([y, self.lone(x)], 1)
        return self.fc(F.avg_pool2d(z, 2).flatten(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def target() -> Residual:
    torch.manual_seed(0)
    return Residual()


@pytest.fixture(scope="module")
def network(target: Residual) -> fxscale.PretrainNetwork:
    return fxscale.downscale(target, 40, target_size=64)


@pytest.fixture(scope="module")
def found(network: fxscale.PretrainNetwork, target: Residual) -> tuple[Layer, ...]:
    return layers(network, target)


def by_name(found: tuple[Layer, ...], name: str) -> Layer:
    (layer,) = [layer for layer in found if layer.name == name and layer.kind != "inserted"]
    return layer


def test_layers_stand_in_the_order_of_execution(found: tuple[Layer, ...]) -> None:
    own = [layer.operator for layer in found if layer.kind != "inserted"]
    assert own[:5] == ["input", "conv", "max pool", "conv", "depthwise conv"]
    assert own[5:] == ["add", "conv", "concat", "average pool", "linear"]


@pytest.mark.parametrize("which", ["target", "pretrain"])
def test_sizes_are_those_of_the_networks_when_they_run(
    which: str, found: tuple[Layer, ...], network: nn.Module, target: nn.Module
) -> None:
    module, size = (target, 64) if which == "target" else (network, 40)
    seen: dict[str, tuple[int, ...]] = {}
    for name in ("stem", "pool", "a", "b", "lone"):
        module.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, tuple(out.shape[2:]))
        )
    module(torch.randn(2, 3, size, size))
    assert seen == {name: getattr(by_name(found, name), which).size for name in seen}


def test_windows_are_those_of_the_modules(
    found: tuple[Layer, ...], network: nn.Module, target: nn.Module
) -> None:
    for name in ("stem", "a", "b", "lone"):
        layer = by_name(found, name)
        for module, side in ((target, layer.target), (network, layer.pretrain)):
            height, width = module.get_submodule(name).kernel_size
            assert side is not None
            assert side.window == f"{height}×{width}"
    assert by_name(found, "stem").stride == "/2"
    assert by_name(found, "pool").stride == "/2"
    assert by_name(found, "a").stride == ""
    assert by_name(found, "stem").channels == 4


def test_a_fully_connected_interface_names_its_map(
    found: tuple[Layer, ...], network: nn.Module
) -> None:
    fc = by_name(found, "fc")
    assert fc.target is not None
    assert fc.target.window == "8×8×8 → 5"
    channels, height, width = map(int, fc.pretrain.window.partition(" ")[0].split("×"))
    assert (channels, height) == (8, width)
    assert channels * height * width == network.get_submodule("fc").in_features


def test_inserted_operators_are_in_the_pretrain_network_alone(
    found: tuple[Layer, ...], network: fxscale.PretrainNetwork
) -> None:
    inserted = [layer for layer in found if layer.kind == "inserted"]
    assert len(inserted) == len(network.plan.pad_operators) > 0
    assert all(layer.target is None for layer in inserted)
    places = {place for place, layer in enumerate(found) if layer.kind == "inserted"}
    for layer in found:
        assert layer.target is None or places.isdisjoint(layer.target.reads)


def test_a_layers_padding_is_its_own(found: tuple[Layer, ...], network: nn.Module) -> None:
    for name in ("stem", "a", "b", "lone"):
        height, width = network.get_submodule(name).padding
        expected = f"pad {height}" if height == width else f"pad {height}×{width}"
        assert by_name(found, name).pretrain.padding == expected


def test_a_layer_reads_through_what_is_left_out(found: tuple[Layer, ...]) -> None:
    names = [layer.name for layer in found]
    pool, a, b = names.index("pool"), names.index("a"), names.index("b")
    add = next(i for i, layer in enumerate(found) if layer.operator == "add")
    sides = [layer.target for layer in found]
    assert [side.reads if side else None for side in (sides[a], sides[add])] == [(pool,), (pool, b)]


def test_every_reader_stands_below_what_it_reads(found: tuple[Layer, ...]) -> None:
    for place, layer in enumerate(found):
        sides: list[Side] = [layer.pretrain, *filter(None, [layer.target])]
        for side in sides:
            assert all(source < place for source in side.reads)
            assert side.reads or layer.kind == "input" or side is layer.target


class Unequal(nn.Module):
    """Two ways of average pools, which keep their padding, meet one pixel apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.slow = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2))
        self.fast = nn.AvgPool2d(3, 4, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.slow(x) + self.fast(x)  # type: ignore[no-any-return]


def test_an_operator_in_front_of_a_sum_is_inserted_too() -> None:
    target = Unequal()
    network = fxscale.downscale(target, 15, target_size=16)
    assert len(network.plan.pad_operators) == 1
    found = layers(network, target)
    *_, pad, add = found
    assert (pad.kind, add.operator) == ("inserted", "add")
    assert len(found) - 2 in add.pretrain.reads
    assert add.target is not None
    assert [found[place].name for place in add.target.reads] == ["slow.1", "fast"]


def test_overfeat_fast_is_the_papers() -> None:
    with torch.device("meta"):
        target = create("overfeat_fast")
    network = fxscale.downscale(target, 147)
    found = layers(network, target)
    convs = [layer for layer in found if layer.kind == "conv"]
    assert [layer.pretrain.window for layer in convs] == ["7×7", "3×3", "2×2", "2×2", "2×2"]
    assert [layer.channels for layer in convs] == [96, 256, 512, 1024, 1024]
    pools = [layer for layer in found if layer.kind == "pool"]
    assert [layer.pretrain.size for layer in pools] == [(18, 18), (8, 8), (4, 4)]
    assert [layer.target.size for layer in pools if layer.target] == [(28, 28), (12, 12), (6, 6)]
    linear = [layer.pretrain.window for layer in found if layer.kind == "linear"]
    assert linear == ["1024×4×4 → 3072", "3072 → 4096", "4096 → 1000"]
    for place, (_, layer) in enumerate(pairwise(found), start=1):  # a chain
        assert layer.pretrain.reads == (place - 1,)


def test_resnet34_has_a_sum_per_block() -> None:
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        target = create("resnet34")
    network = fxscale.downscale(target, 160)
    found = layers(network, target)
    sums = [layer for layer in found if layer.operator == "add"]
    assert len(sums) == 3 + 4 + 6 + 3
    assert all(layer.target and len(layer.target.reads) == 2 for layer in sums)
    assert sum(layer.kind == "conv" for layer in found) == 36
    (crop,) = [layer for layer in found if layer.kind == "inserted"]
    assert (crop.name, crop.operator) == ("layer3.0.conv1", "crop 0/1")
    assert by_name(found, "avgpool").operator == "global average pool"


def test_the_new_padding_of_a_max_pool_is_told() -> None:
    """3 layers of 2 x 2 kernels leave 9 pixels, of which the pool completes the last window."""
    three = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)]
    target = nn.Sequential(*three, nn.MaxPool2d(2))
    *_, pool = layers(fxscale.downscale(target, 10, target_size=14), target)
    assert pool.target is not None
    assert (pool.target.padding, pool.pretrain.padding) == ("pad 0", "pad 0/1")


def test_a_pad_in_front_of_a_max_pool_is_a_layer_of_its_own() -> None:
    target = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2))
    *_, pad, pool = layers(fxscale.downscale(target, (8, 12), target_size=(16, 17)), target)
    assert (pad.kind, pad.operator) == ("inserted", "pad 0/1×0")
    assert pool.target is not None
    assert (pool.target.padding, pool.pretrain.padding) == ("", "")
