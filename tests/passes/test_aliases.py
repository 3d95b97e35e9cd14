"""Second names: every one computes what the model does, and stands as the first in the graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.passes.aliases import FIRST_NAMES
from tests.passes.networks import Around, assert_same_outputs

BINARY = frozenset(
    {"arctan2", "divide", "greater", "greater_equal", "less", "less_equal", "multiply"}
    | {"not_equal", "subtract", "true_divide"}
)
ARGUMENTS = {"clip": (-0.5, 0.5), "moveaxis": (1, -1)}


class Called(nn.Module):
    def __init__(self, name: str, *, method: bool) -> None:
        super().__init__()
        self.name, self.method = name, method
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (conv(x).sigmoid() for conv in self.convs)
        rest = (second,) if self.name in BINARY else ARGUMENTS.get(self.name, ())
        if self.method:
            result: Tensor = getattr(first, self.name)(*rest)
        else:
            result = getattr(torch, self.name)(first, *rest)
        return result


NUMPY = {
    "cat": lambda x: torch.cat([x, x], axis=1),
    "function": lambda x: torch.amax(x, axis=(2, 3), keepdims=True) + x,
    "method": lambda x: x.mean(axis=1, keepdims=True),
    "softmax": lambda x: x.softmax(axis=1),
    "max": lambda x: x.flatten(2).max(axis=-1, keepdims=True)[0],
}


@pytest.mark.parametrize("name", NUMPY)
def test_arguments_under_the_names_of_numpy(name: str) -> None:
    def model() -> Around:
        return Around(lambda m, x: NUMPY[name](x))

    small = fxscale.downscale(model(), 8, target_size=12, kernels={"conv": 3})
    assert_same_outputs(small, model(), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("method", [False, True], ids=["function", "method"])
@pytest.mark.parametrize("name", FIRST_NAMES)
def test_a_second_name_is_the_first(name: str, method: bool) -> None:
    torch.manual_seed(0)
    target = Called(name, method=method)
    pretrain = fxscale.downscale(target, 8, target_size=12, keep=["*"])
    pretrain.load_state_dict(target.state_dict())
    images = torch.randn(3, 3, 8, 8)

    expected = target(images)
    if name == "arccosh":  # of numbers below one it is not a number
        assert expected.isnan().all()
    torch.testing.assert_close(pretrain(images), expected, equal_nan=True)
    used = {getattr(node.target, "__name__", node.target) for node in pretrain.graph.nodes}
    assert FIRST_NAMES[name] in used
    assert name not in used
