"""Tracing: `torch.no_grad` and `torch.autocast` blocks in `forward`. One small network each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxscale
from fxscale.contexts import enter_autocast, leave_autocast
from tests.fxscale.checks import assert_compiles
from tests.fxscale.small_networks import Net, pair


def autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        x = m.stages(x.float())
    with torch.no_grad(), contextlib.nullcontext():
        scale = m.conv.bias.abs().max()
    return x * scale


def block_in_lower_precision(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.stages(x)
    return y.float() + x


def lower_precision_where_the_input_is(m: Any, x: Tensor) -> Tensor:
    with torch.autocast(device_type=x.device.type, enabled=x.shape[-1] > 2):
        y = m.stages(x)
        with torch.autocast(x.device.type, dtype=x.dtype, enabled=False):
            x = m.stages(x)
    return y.float() + x


def gradients_in_train_mode_only(m: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(m.training):
        y = m.stages(x)
    with torch.enable_grad():
        return x + y


def frozen_stem(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.stages(x)
        with torch.enable_grad():
            y = y + x
    return y.detach() * x


BODIES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "autocast and no_grad": autocast,
    "autocast to bfloat16": block_in_lower_precision,
    "autocast on the input's device": lower_precision_where_the_input_is,
    "set_grad_enabled": gradients_in_train_mode_only,
    "no_grad around layers": frozen_stem,
}


def network(name: str) -> nn.Module:
    return Net(BODIES[name], stages=pair(4, 4))


@pytest.mark.parametrize("name", BODIES)
def test_blocks(name: str) -> None:
    assert_compiles(network(name), 12, 8)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")  # torch 2.9
@pytest.mark.parametrize(
    "name", ["autocast to bfloat16", "autocast on the input's device", "no_grad around layers"]
)
def test_blocks_in_compiled_code(name: str) -> None:
    small = fxscale.downscale(network(name), 8, target_size=12)
    image = torch.randn(2, 3, 8, 8)
    expected = small(image)
    found = torch.compile(small, backend="eager")(image)
    torch.testing.assert_close(found, expected)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    with torch.no_grad():
        assert not small(image).requires_grad
        assert not torch.is_grad_enabled()


def test_autocast_reads_the_device_when_the_network_runs() -> None:
    """A network compiled on one device may run on another, whose default dtype is its own."""
    small = fxscale.downscale(network("autocast on the input's device"), 8, target_size=12)
    entered = [node for node in small.graph.nodes if node.target is enter_autocast]
    assert [isinstance(node.args[0], fx.Node) for node in entered] == [True, True]
    assert entered[0].args[1] is None
    before = enter_autocast("cuda", None, enabled=True, cache_enabled=True)
    try:
        assert torch.get_autocast_dtype("cuda") == torch.float16
    finally:
        leave_autocast(before)
