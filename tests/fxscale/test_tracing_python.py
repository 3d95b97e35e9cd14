"""Tracing: Python in `forward` that asks for sizes. One small network each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.fxscale.checks import assert_compiles
from tests.fxscale.small_networks import Net


def branch_on_a_size(m: Any, x: Tensor) -> Tensor:
    return torch.relu(x) if x.shape[-1] > 7 else torch.tanh(x)


def branch_that_turns_out_differently(m: Any, x: Tensor) -> Tensor:
    return torch.relu(x) if x.shape[-1] > 10 else torch.tanh(x)


def branch_on_parity(m: Any, x: Tensor) -> Tensor:
    x = x[:, :, 1:]
    if x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, 1))
    return x


def loop_over_halves(m: Any, x: Tensor) -> Tensor:
    size = x.shape[-1]
    while size > 4:
        x = F.avg_pool2d(x, 2)
        size = size // 2
    return x


def length_of_a_shape(m: Any, x: Tensor) -> Tensor:
    for _ in range(len(x.shape) - 2):
        x = torch.relu(x)
    return x


def zipped_sizes(m: Any, x: Tensor) -> Tensor:
    y = F.avg_pool2d(x, 2)
    factor = max(a // b for a, b in zip(x.shape[2:], y.shape[2:], strict=True))
    return F.interpolate(y, scale_factor=float(factor))


def enumerated_chunks(m: Any, x: Tensor) -> Tensor:
    return torch.cat([part * (i + 1) for i, part in enumerate(x.chunk(2, dim=1))], dim=1)


def plain_assert(m: Any, x: Tensor) -> Tensor:
    assert x.shape[2] == 12, f"expected 12, found {x.shape[2]}"
    assert x.dim() == 4
    assert x.shape[2] == x.shape[3]
    return x.relu()


def torch_assert(m: Any, x: Tensor) -> Tensor:
    torch._assert(x.shape[2] == 12, f"input height {x.shape[2]} does not match")
    torch._assert(x.shape[2] % 6 == 0, "height is no multiple of 6")
    torch._assert(x.shape[1] == 4, "four channels")
    return x.relu()


def error_branch(m: Any, x: Tensor) -> Tensor:
    _, _, h, w = x.shape
    if h < 12 or w != 12:
        raise ValueError(f"image of {h}x{w:d} is smaller than {tuple(x.shape)}")
    return x.relu()


def formatted_sizes(m: Any, x: Tensor) -> Tensor:
    name = f"{x.shape[1]:d}-{x.dim()}"
    return x * len(name)


def scripting_flags(m: Any, x: Tensor) -> Tensor:
    if torch.jit.is_scripting() or torch.jit.is_tracing():
        return x
    return x.relu()


def mathematics(m: Any, x: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    size = (math.ceil(h / 2), round(w / 2))
    return F.adaptive_avg_pool2d(x, size) * math.sqrt(x.shape[1]) * abs(x.shape[1] - 9)


def maximum_of_sizes(m: Any, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, (max(x.shape[2], 12), max(12, x.shape[3])))


def isinstance_of_a_tensor(m: Any, x: Any) -> Tensor:
    if isinstance(x, Tensor):
        x = [x]
    parts = torch.chunk(x[0], 2, dim=1)
    if not isinstance(parts, list | tuple):
        parts = (parts,)
    height = parts[0].shape[2]
    size = (height, height) if isinstance(height, int) else height
    return F.interpolate(torch.cat([*parts], 1), size=size) if torch.is_tensor(x[0]) else x[0]


def integers_of_sizes(m: Any, x: Tensor) -> Tensor:
    h, w = int(x.shape[2]), int(x.shape[3])
    x = F.adaptive_avg_pool2d(x, (int(2 * max(h, w) - 1), w))
    return x if int(2 * h - 1) == x.shape[2] else -x


def exponent(m: Any, x: Tensor) -> Tensor:
    return x / x.shape[1] ** 0.5 * float(x.shape[1])


def optional_of_a_size(m: Any, x: Tensor) -> Tensor:
    scale = None if x.shape[2] == x.shape[3] else 2.0
    return x if scale is None else x * scale


def sizes_compared_as_tuples(m: Any, x: Tensor) -> Tensor:
    y = F.max_pool2d(x, 3, 1, 1)
    if x.shape[2:] != y.shape[2:] or x.size() != y.size():
        y = F.interpolate(y, size=x.shape[2:])
    return x + y


def attribute_reads(m: Any, x: Tensor) -> Tensor:
    if x.is_cuda or x.dtype == torch.float16 or x.requires_grad is None:
        return x.float()
    return x.to(x.device).type(x.dtype) if x.ndim == 4 and x.is_floating_point() else x


BODIES = [
    branch_on_a_size,
    branch_that_turns_out_differently,
    branch_on_parity,
    loop_over_halves,
    length_of_a_shape,
    zipped_sizes,
    enumerated_chunks,
    plain_assert,
    torch_assert,
    error_branch,
    formatted_sizes,
    scripting_flags,
    mathematics,
    maximum_of_sizes,
    isinstance_of_a_tensor,
    exponent,
    optional_of_a_size,
    sizes_compared_as_tuples,
    attribute_reads,
]


@pytest.mark.parametrize("body", BODIES)
def test_python_over_sizes(body: Callable[[Any, Tensor], Any]) -> None:
    assert_compiles(Net(body), 12, 8)
