"""The rewrite: modules replaced under their own names, sizes substituted, nothing shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError
from fxscale.passes.rewrite import copy_tree
from fxscale.plan import StateMap
from tests.passes.networks import Around


class Own(nn.Conv2d):
    """A user's convolution, compiled as the function that it calls."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


def test_modules_keep_name_class_and_everything_else() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2, bias=False), nn.BatchNorm2d(4, eps=0.1))
    small = fxscale.downscale(model, 8, target_size=12)
    assert [n for n, _ in small.named_modules()] == [n for n, _ in model.named_modules()]
    assert [type(m) for m in small.children()] == [type(m) for m in model.children()]
    assert str(small.get_submodule("1")) == str(model[1])
    conv = small.get_submodule("0")
    assert conv.kernel_size == conv.weight.shape[2:] == (3, 3)
    assert conv.padding == (1, 1)
    assert conv.bias is None


def test_a_subclass_stays_itself() -> None:
    model = nn.Sequential(Own(3, 4, 5, padding=2), nn.Conv2d(4, 4, 1))
    small = fxscale.downscale(model, 8, target_size=12)
    own = small.get_submodule("0")
    assert type(own) is Own
    image = torch.randn(2, 3, 8, 8)
    expected = F.conv2d(image, own.weight, own.bias, padding=1)
    torch.testing.assert_close(small(image), small.get_submodule("1")(expected))


def test_shared_modules_and_parameters_stay_shared() -> None:
    conv = nn.Conv2d(3, 3, 5, padding=2)
    small = fxscale.downscale(nn.Sequential(conv, nn.ReLU(), conv), 8, target_size=12)
    assert small.get_submodule("0") is small.get_submodule("2")

    tied = nn.Sequential(nn.Conv2d(3, 3, 5, padding=2), nn.Conv2d(3, 3, 5, padding=2))
    tied[1].weight = tied[0].weight
    small = fxscale.downscale(tied, 8, target_size=12)
    assert small.get_parameter("0.weight") is small.get_parameter("1.weight")


def test_resized_tensors_are_not_copied_at_their_old_size() -> None:
    weight = nn.Parameter(torch.randn(4, 3, 5, 5), requires_grad=False)
    model = nn.Module()
    model.weight = weight
    shapes = {"pretrain_shape": (4, 3, 3, 3), "target_shape": (4, 3, 5, 5)}
    views = {"pretrain_view": (4, 3, 3, 3), "target_view": (4, 3, 5, 5)}
    copied = copy_tree(model, [StateMap(key="weight", kind="kernel", **shapes, **views)], "fan")
    assert copied.weight.shape == (4, 3, 3, 3)
    assert not copied.weight.requires_grad
    assert model.weight is weight


def test_one_module_that_would_need_two_sizes_is_refused() -> None:
    body: Any = lambda m, x: m.pool(x).mean((2, 3)) + m.pool(F.avg_pool2d(x, 3)).mean((2, 3))
    model = Around(body, pool=nn.AdaptiveAvgPool2d((4, 4)))
    with pytest.raises(UnsupportedModelError, match="two calls of one module need different outp"):
        fxscale.downscale(model, 8, target_size=12, kernels={"conv": 3})


def test_a_single_int_stays_a_single_int() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(12), nn.Flatten(), nn.Linear(4, 2))
    small = fxscale.downscale(model, 8, target_size=12)
    assert small.get_submodule("1").kernel_size == 8


def test_unused_modules_are_kept() -> None:
    model = Around(lambda m, x: x, unused=nn.Conv2d(3, 4, 7), buffered=nn.BatchNorm2d(3))
    small = fxscale.downscale(model, 8, target_size=12)
    assert torch.equal(small.get_parameter("unused.weight"), model.unused.weight)
    assert list(small.state_dict()) == list(model.state_dict())
