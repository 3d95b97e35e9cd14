"""`downscale` on the networks of the paper, torchvision's, and what may happen to the result."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fxscale
from fxscale.models.overfeat import overfeat_fast
from fxscale.passes.pipeline import Timings
from tests.passes.networks import assert_same_outputs, kernel_sizes, map_sizes, pad_nodes


def parameters_by_layer(model: nn.Module) -> dict[str, str]:
    """The description of every leaf module, without those of convolutions and `fc6`."""
    return {
        name: str(module)
        for name, module in model.named_modules()
        if next(module.children(), None) is None and not isinstance(module, nn.Conv2d)
    }


# The paper's networks.


@pytest.mark.parametrize("size", [147, None])
def test_overfeat(size: int | None) -> None:
    target = overfeat_fast(width=1 / 32)
    small = fxscale.downscale(target, size, target_size=231)
    assert kernel_sizes(small) == {
        "conv1": (7, 7),
        "conv2": (3, 3),
        "conv3": (2, 2),
        "conv4": (2, 2),
        "conv5": (2, 2),
    }
    sizes = map_sizes(small, torch.zeros(1, 3, 147, 147))
    flow = ("conv1", "pool1", "conv2", "pool2", "pool5")
    assert [sizes[name][0] for name in flow] == [36, 18, 16, 8, 4]
    assert small.plan.pretrain_size == (147, 147)
    old, new = parameters_by_layer(target), parameters_by_layer(small)
    assert {name for name in old if old[name] != new[name]} == {"fc6", "pool5"}
    assert small.get_submodule("pool5").ceil_mode
    assert small.get_submodule("fc6").in_features == target.conv5.out_channels * 4 * 4
    (interface,) = small.plan.interfaces
    assert (interface.target_size, interface.pretrain_size) == ((6, 6), (4, 4))
    assert small.plan.max_drift <= 0.5


def test_overfeat_infers_a_size_that_it_accepts() -> None:
    target = overfeat_fast(width=1 / 32)
    plan = fxscale.downscale(target).plan
    assert target(torch.zeros(1, 3, *plan.target_size)).shape == (1, 1000)


class Narrow34(torchvision.models.ResNet):
    """torchvision's ResNet-34 with an eighth of the features."""

    def __init__(self) -> None:
        super().__init__(torchvision.models.resnet.BasicBlock, [3, 4, 6, 3], num_classes=10)
        for name, module in list(self.named_modules()):
            parent = self.get_submodule(name.rpartition(".")[0])
            leaf = name.rpartition(".")[2]
            if isinstance(module, nn.Conv2d):
                inputs = 3 if module.in_channels == 3 else module.in_channels // 8
                new: nn.Module = nn.Conv2d(
                    inputs,
                    module.out_channels // 8,
                    module.kernel_size,
                    module.stride,
                    module.padding,
                    bias=False,
                )
            elif isinstance(module, nn.BatchNorm2d):
                new = nn.BatchNorm2d(module.num_features // 8)
            elif isinstance(module, nn.Linear):
                new = nn.Linear(module.in_features // 8, 10)
            else:
                continue
            setattr(parent, leaf, new)


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, fxscale.PretrainNetwork]:
    torch.manual_seed(0)
    target = Narrow34()
    return target, fxscale.downscale(target, 160, target_size=224)


def test_resnet34_kernels(resnet: Any) -> None:
    target, small = resnet
    expected = {(7, 7): (5, 5), (3, 3): (2, 2), (1, 1): (1, 1)}
    old, new = kernel_sizes(target), kernel_sizes(small)
    assert new == {name: expected[kernel] for name, kernel in old.items()}


def test_resnet34_sizes(resnet: Any) -> None:
    _, small = resnet
    sizes = map_sizes(small, torch.zeros(1, 3, 160, 160))
    flow = [sizes[name][0] for name in ("conv1", "maxpool")]
    flow += [sizes[f"layer{stage}.{2}.bn2"][0] for stage in (1, 2, 3, 4)]
    assert flow == [80, 40, 40, 20, 10, 5]
    for name, size in sizes.items():
        assert size[0] == size[1] if len(size) == 2 else name in ("fc", "avgpool")


def test_resnet34_pads_the_second_convolution_of_a_block(resnet: Any) -> None:
    _, small = resnet
    for stage in (1, 2, 3, 4):
        for index, block in enumerate(small.get_submodule(f"layer{stage}").children()):
            if block.conv1.stride == (1, 1):
                paddings = (block.conv1.padding, block.conv2.padding)
                assert paddings == ((0, 0), (1, 1)), (stage, index)
    for name in pad_nodes(small):  # only blocks with a stride may need an operator
        node = next(n for n in small.graph.nodes if n.name == name)
        (user,) = node.users
        stage, index, *_ = str(user.target).split(".")
        assert index == "0"
        assert stage in ("layer2", "layer3", "layer4")
    assert small.plan.max_drift <= 0.25


def test_resnet34_round_trip(resnet: Any) -> None:
    target, small = resnet
    state = fxscale.upscale_state(small)
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in target.state_dict().items()
    }


def test_resnet34_suggests_160(resnet: Any) -> None:
    target, _ = resnet
    plan = fxscale.downscale(target).plan
    assert (plan.target_size, plan.pretrain_size) == ((224, 224), (160, 160))


@pytest.mark.parametrize(("size", "large"), [((160, 128), (224, 192)), ((96, 160), (128, 224))])
def test_resnet34_non_square(resnet: Any, size: tuple[int, ...], large: tuple[int, ...]) -> None:
    target, _ = resnet
    small = fxscale.downscale(target, size, target_size=large)
    sizes = map_sizes(small, torch.zeros(1, 3, *size))
    assert sizes["layer4.2.bn2"] == tuple(n // 32 for n in size)
    assert small(torch.zeros(2, 3, *size)).shape == (2, 10)


# torchvision's networks with an adaptive pool before the fully connected head.


class AlexLike(nn.Module):
    """torchvision's AlexNet and VGG in their last layers, narrow."""

    def __init__(self, k: tuple[int, ...], p: tuple[int, ...], pool: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, k[0], stride=4, padding=p[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(4, 4, k[1], padding=p[1]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((pool, pool))
        self.classifier = nn.Linear(4 * pool * pool, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def test_an_adaptive_pool_of_7_becomes_5() -> None:
    small = fxscale.downscale(AlexLike((11, 5), (2, 2), 7), 160, target_size=224)
    padding = [small.get_submodule(f"features.{i}").padding[0] for i in (0, 3)]
    by_hand = AlexLike((7, 3), (padding[0], padding[1]), 5)
    assert_same_outputs(small, by_hand, torch.randn(1, 3, 160, 160))


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    """torchvision's VGG-11, its widths divided by 32."""
    layers = torchvision.models.vgg.make_layers(
        [2, "M", 4, "M", 8, 8, "M", 16, 16, "M", 16, 16, "M"]
    )
    model = torchvision.models.VGG(layers, num_classes=10, init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(16 * 49, 32), nn.ReLU(True), nn.Linear(32, 10))
    return model


def test_vgg(vgg: nn.Module) -> None:
    small = fxscale.downscale(vgg, 160, target_size=224)
    assert set(kernel_sizes(small).values()) == {(2, 2)}
    assert small.get_submodule("avgpool").output_size == (5, 5)
    assert small.get_submodule("classifier.0").in_features == 16 * 25
    assert small(torch.zeros(2, 3, 160, 160)).shape == (2, 10)
    (interface,) = small.plan.interfaces
    assert (interface.target_size, interface.pretrain_size) == ((7, 7), (5, 5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "mobilenet_v3_small"])
def test_torchvision(name: str) -> None:
    target = getattr(torchvision.models, name)()
    small = fxscale.downscale(target, 160, target_size=224).eval()
    with torch.no_grad():
        assert small(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)
    assert {k: v.shape for k, v in fxscale.upscale_state(small).items()} == {
        k: v.shape for k, v in target.state_dict().items()
    }


# A network with everything in it, small enough to run through all that may happen to it.


class Auxiliary(nn.Module):
    """An auxiliary head in train mode, a residual branch, dropout by function, an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.aux = nn.Linear(8 * 12 * 12, 5)
        self.fc = nn.Linear(8, 5)
        self.unused = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        y = self.b(self.a(x).relu_())
        y += x
        aux = self.aux(y.view(y.size(0), -1)) if self.training else None
        y = F.dropout(y.mean((2, 3)), 0.5, self.training)
        out = self.fc(y)
        return (out, aux) if self.training else out


IMAGE = (4, 3, 8, 8)


@pytest.fixture
def small() -> fxscale.PretrainNetwork:
    return fxscale.downscale(Auxiliary(), 8, target_size=12)


def saved_and_loaded(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


CARRY = [
    pytest.param(lambda m: m, id="as is"),
    pytest.param(copy.deepcopy, id="deepcopy"),
    pytest.param(lambda m: pickle.loads(pickle.dumps(m)), id="pickle"),
    pytest.param(saved_and_loaded, id="torch.save"),
    pytest.param(lambda m: copy.deepcopy(copy.deepcopy(m)), id="deepcopy twice"),
    pytest.param(lambda m: saved_and_loaded(copy.deepcopy(m)), id="deepcopy, then torch.save"),
]


@pytest.mark.parametrize("carry", CARRY)
def test_modes_are_followed_wherever_the_network_goes(carry: Any, small: Any) -> None:
    carried = carry(small)
    assert carried.plan == small.plan
    assert list(carried.state_dict()) == list(Auxiliary().state_dict())
    image = torch.randn(IMAGE)
    out, aux = carried.train()(image)
    assert (out.shape, aux.shape) == ((4, 5), (4, 5))
    small.load_state_dict(carried.state_dict())
    result = carried.eval()(image)
    assert isinstance(result, Tensor)
    assert torch.equal(result, small.eval()(image))
    assert torch.equal(result, carried(image))  # no dropout
    assert isinstance(carried.train()(image), tuple)


@pytest.mark.parametrize("carry", CARRY)
def test_nothing_is_shared_with_the_target(carry: Any) -> None:
    target = Auxiliary()
    carried = carry(fxscale.downscale(target, 8, target_size=12))
    own = {t.data_ptr() for t in (*target.parameters(), *target.buffers())}
    assert not own & {t.data_ptr() for t in (*carried.parameters(), *carried.buffers())}


def test_the_state_has_the_targets_names(small: fxscale.PretrainNetwork) -> None:
    assert list(small.state_dict()) == list(Auxiliary().state_dict())
    assert [n for n, _ in small.named_parameters()] == [
        n for n, _ in Auxiliary().named_parameters()
    ]
    small.load_state_dict(copy.deepcopy(small.state_dict()))


def test_frozen_parameters_and_modes_are_kept() -> None:
    target = Auxiliary()
    target.stem.weight.requires_grad_(False)
    target.norm.eval()
    small = fxscale.downscale(target, 8, target_size=12)
    assert not small.get_parameter("stem.weight").requires_grad
    assert small.training
    assert not small.get_submodule("norm").training


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_of_the_target_is_the_networks_first(mode: bool) -> None:
    small = fxscale.downscale(Auxiliary().train(mode), 8, target_size=12)
    assert small.training is mode
    assert isinstance(small(torch.randn(IMAGE)), tuple) is mode


def test_channels_last(small: fxscale.PretrainNetwork) -> None:
    small.eval()
    image = torch.randn(IMAGE)
    expected = small(image)
    small.to(memory_format=torch.channels_last)
    got = small(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected)
    target = Auxiliary()
    target.load_state_dict(fxscale.upscale_state(small))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    target = Auxiliary().to(dtype)
    small = fxscale.downscale(target, 8, target_size=12)
    for key, value in small.state_dict().items():
        assert value.dtype == target.state_dict()[key].dtype
    out, aux = small(torch.randn(IMAGE, dtype=dtype))
    assert out.dtype == aux.dtype == dtype
    (out.sum() + aux.sum()).backward()
    target.load_state_dict(fxscale.upscale_state(small))


def test_torch_compile(small: fxscale.PretrainNetwork) -> None:
    image = torch.randn(IMAGE)
    small.eval()
    expected = small(image)
    compiled = torch.compile(small, backend="eager")
    torch.testing.assert_close(compiled(image), expected)
    compiled.train()
    out, aux = compiled(image)
    assert aux is not None
    (out.sum() + aux.sum()).backward()
    assert torch.equal(fxscale.upscale_state(compiled)["unused"], small.get_parameter("unused"))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", world_size=1, rank=0
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_data_parallel(small: fxscale.PretrainNetwork) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = DistributedDataParallel(small, find_unused_parameters=True)
        out, aux = wrapped(torch.randn(IMAGE))
        (out.sum() + aux.sum()).backward()
    assert small.get_parameter("stem.weight").grad is not None
    target = Auxiliary()
    target.load_state_dict(fxscale.upscale_state(wrapped))
    assert isinstance(wrapped.eval()(torch.randn(IMAGE)), Tensor)


def test_keyword_arguments_and_concrete_args() -> None:
    class Options(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 5, padding=2)

        def forward(self, x: Tensor, scale: float = 2.0, pooled: bool = True) -> Any:
            x = self.conv(x) * scale
            return x.mean((2, 3)) if pooled else x

    image = torch.randn(IMAGE)
    assert fxscale.downscale(Options(), 8, target_size=12)(image).shape == (4, 4)
    maps = fxscale.downscale(Options(), 8, target_size=12, concrete_args={"pooled": False})
    assert maps(image).shape == (4, 4, 8, 8)


def test_two_images() -> None:
    class Siamese(nn.Module):
        def __init__(self, k: int, p: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, k, padding=p)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return (self.conv(left) - self.conv(right)).abs().mean((2, 3))

    example = (torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 12))
    small = fxscale.downscale(Siamese(5, 2), 8, example_inputs=example)
    by_hand = Siamese(3, 1)
    by_hand.load_state_dict(small.state_dict())
    left, right = torch.randn(IMAGE), torch.randn(IMAGE)
    torch.testing.assert_close(small(left, right), by_hand(left, right))
    assert small.plan.target_size_source == "the size of example_inputs"


def test_timings() -> None:
    timings = Timings()
    fxscale.downscale(Auxiliary(), 8, target_size=12, timings=timings)
    assert next(iter(timings.seconds)) == "trace"
    assert list(timings.seconds)[-1] == "verify"
    assert all(seconds >= 0 for seconds in timings.seconds.values())


@pytest.mark.parametrize("init", ["fan", "resample"])
def test_both_ways_to_start(init: Any) -> None:
    target = Auxiliary()
    small = fxscale.downscale(target, 8, target_size=12, init=init)
    # Unscaled entries are the target's own.
    for key in ("norm.weight", "fc.weight", "fc.bias", "unused", "stem.bias"):
        assert torch.equal(small.state_dict()[key], target.state_dict()[key])
    assert small.get_parameter("stem.weight").abs().sum() > 0


def test_resampling_inverts_upscaling() -> None:
    target = Auxiliary()
    small = fxscale.downscale(target, 8, target_size=12)
    target.load_state_dict(fxscale.upscale_state(small))
    again = fxscale.downscale(target, 8, target_size=12, init="resample")
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, small.state_dict()[key])


def test_compiling_a_compiled_network() -> None:
    first = fxscale.downscale(Auxiliary(), 10, target_size=12, kernels="nearest")
    second = fxscale.downscale(first, 8, target_size=10)
    assert isinstance(second.train()(torch.randn(IMAGE)), tuple)
