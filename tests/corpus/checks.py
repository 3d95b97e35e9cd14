"""What holds for every network of the corpus."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fxscale

Inputs = tuple[Tensor, ...]


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors of an output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from leaves(tuple(value.values()))
    elif value is not None:
        for item in value:
            yield from leaves(item)


def same_structure(found: Any, expected: Any) -> None:
    """The same containers, ranks and dtypes; what is no map has the same shape."""
    assert type(found) is type(expected)
    ours, theirs = list(leaves(found)), list(leaves(expected))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.ndim, one.dtype) == (other.ndim, other.dtype)
        assert all(small <= large for small, large in zip(one.shape, other.shape, strict=True))
        if other.ndim <= 2:
            assert one.shape == other.shape


def trained(model: nn.Module, inputs: Inputs) -> set[str]:
    """The parameters that one step of training reaches, with their gradients all finite."""
    model.train().zero_grad()
    torch.stack([leaf.float().square().sum() for leaf in leaves(model(*inputs))]).sum().backward()
    reached = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, gradient in reached.items():
        assert gradient.isfinite().all(), name
    return set(reached)


def assert_learns_and_leads_back(target: nn.Module, large: Inputs, small: Inputs) -> Any:
    """Compile for the size of `small`, run and train in both modes, go back; returns the plan."""
    result = fxscale.downscale(target, tuple(small[0].shape[2:]), example_inputs=large)
    assert trained(result, small) == trained(target, large)
    for mode in (True, False):
        with torch.no_grad():
            same_structure(result.train(mode)(*small), target.train(mode)(*large))
    copy.deepcopy(target).load_state_dict(fxscale.upscale_state(result), strict=True)
    return result.plan


def run(model: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    torch.manual_seed(7)
    with torch.no_grad():
        return list(leaves(model(*inputs)))


def assert_is_the_target_at_its_own_size(target: nn.Module, inputs: Inputs) -> None:
    """Bit for bit, in both modes, if every kernel is kept."""
    size = tuple(inputs[0].shape[2:])
    same = fxscale.downscale(target, size, example_inputs=inputs, keep=["*"])
    for key, value in target.state_dict().items():
        assert torch.equal(same.state_dict()[key], value), key
    for mode in (False, True):
        expected = run(target.train(mode), inputs)
        found = run(same.train(mode), inputs)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
