"""The tracer: Python control flow over sizes resolves, over contents it is refused."""

from __future__ import annotations

import logging
import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import UnsupportedModelError, first_line
from fxscale.passes.evaluate import quiet_failures
from fxscale.passes.refusal import module_path
from tests.passes.networks import Around, traced


def targets(body: Any, **modules: nn.Module) -> list[Any]:
    return [node.target for node in traced(Around(body, **modules)).graph.nodes]


def test_a_branch_on_a_size_is_taken_and_remembered() -> None:
    network = traced(Around(lambda m, x: torch.relu(x) if x.shape[-1] > 7 else torch.tanh(x)))
    assert torch.relu in [node.target for node in network.graph.nodes]
    assert [decision.value for decision in network.decisions] == [True]


def test_the_other_branch() -> None:
    model = Around(lambda m, x: torch.relu(x) if x.shape[-1] > 7 else torch.tanh(x))
    network = traced(model, 7)
    assert torch.tanh in [node.target for node in network.graph.nodes]
    assert [decision.value for decision in network.decisions] == [False]


def body_with_python(m: Around, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    assert len(x.shape) == 4
    assert h == w
    for _ in range(len(x.shape) - 2):
        x = torch.relu(x)
    return x.view(n, c * h * w)


def test_unpacking_len_range_and_asserts() -> None:
    assert targets(body_with_python).count(torch.relu) == 2


def test_a_chunked_tensor_is_iterated() -> None:
    found = targets(lambda m, x: torch.cat([torch.relu(part) for part in x.chunk(2, 1)], 1))
    assert found.count(torch.relu) == 2


def in_place(m: Around, x: Tensor) -> Tensor:
    y = torch.relu(x)
    y += x
    y *= 2
    return y


def test_in_place_operators_stay_in_place() -> None:
    found = targets(in_place)
    assert operator.iadd in found
    assert operator.imul in found


def data_dependent(m: Around, x: Tensor) -> Tensor:
    return x if x.mean() > 0 else -x


def test_control_flow_over_contents_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="asks for the contents of the tensor") as info:
        traced(Around(data_dependent))
    assert "torch.where" in info.value.remedy


@pytest.mark.parametrize("convert", [int, float, bool, lambda x: [0][x]])
def test_numbers_from_contents_are_refused(convert: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="contents of the tensor"):
        traced(Around(lambda m, x: x * convert(x.sum())))


def test_an_operator_that_fails_names_its_place() -> None:
    model = Around(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(5, 2))
    with pytest.raises(UnsupportedModelError, match=r"failed at the target size: .*") as info:
        traced(model)
    assert info.value.module == "fc"
    assert "target_size" in info.value.remedy


def test_membership_of_a_size_is_a_branch() -> None:
    network = traced(Around(lambda m, x: torch.relu(x) if 12 in x.shape else x))
    assert [decision.value for decision in network.decisions] == [True]


@pytest.mark.parametrize(
    "pool",
    [
        lambda m, x: F.avg_pool2d(x, x.shape[-1]),
        lambda m, x: F.max_pool2d(x, (x.size(2), x.size(3))),
        lambda m, x: F.avg_pool2d(x, x.size()[2:]),
    ],
)
def test_a_size_given_to_an_operator_is_no_decision(pool: Any) -> None:
    """torch asks such a size for its index, only to see that it is an int."""
    small = fxscale.downscale(Around(pool), 8, target_size=12)
    assert small(torch.randn(2, 3, 8, 8)).shape[2:] == (1, 1)


def test_a_size_that_was_counted_before_stays_a_decision() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        length = x.shape[-1]
        for _ in range(length):
            x = x * 1.5
        return F.avg_pool2d(x, length)

    with pytest.raises(UnsupportedModelError, match="is 12 at the target size and 9 at the pre-"):
        fxscale.downscale(Around(body), 8, target_size=12)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Around(lambda m, x: torch.relu(x))

    def forward(self, x: Tensor) -> Any:
        return torch.tanh(self.inner(x))


def test_module_paths() -> None:
    paths = {node.name: module_path(node) for node in traced(Outer()).graph.nodes}
    assert paths["inner_conv"] == "inner.conv"
    assert paths["relu"] == "inner"
    assert paths["tanh"] == ""


def test_first_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_quiet_failures_restores_the_logger() -> None:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was = logger.disabled
    with quiet_failures():
        assert logger.disabled
    assert logger.disabled is was


def fail_quietly() -> None:
    with quiet_failures():
        raise KeyError


def test_quiet_failures_restores_the_logger_after_a_failure() -> None:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was = logger.disabled
    with pytest.raises(KeyError):
        fail_quietly()
    assert logger.disabled is was
