"""What must hold for every network that compiles, held against the target network itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fxscale


def assert_compiles(
    model: nn.Module, target: int, small: int, *, shapes: Sequence[int] = (3,), **options: Any
) -> fxscale.PretrainNetwork:
    """Compile `model` from `target` to `small` pixels, check the result and return it.

    1. At the target's own size with all kernels kept, the result is the target: bit for bit, in
       train and in eval mode, gradients included, whatever the batch size and in every call.
    2. At the small size it runs in both modes, returns what the target returns (same containers,
       same keys, tensors of the same rank, batch and channels), and trains every parameter that
       the target trains.
    3. The state goes back strictly.

    `shapes` holds the channels of each image that the model takes.
    """
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    rank = next(m.weight.ndim - 2 for m in model.modules() if hasattr(m, "stride"))
    if len(shapes) > 1:
        options["example_inputs"] = _images(shapes, target, rank)
        sizes: dict[str, Any] = {}
    else:
        sizes = {"target_size": target}
    _is_the_target(copy.deepcopy(model), shapes, target, rank, {**sizes, **options, "keep": ["*"]})
    result = fxscale.downscale(model, small, **sizes, **options)
    arguments = options.get("concrete_args", {})
    for mode in (True, False):
        twin = copy.deepcopy(model).train(mode)
        expected = twin(*_images(shapes, target, rank), **arguments)
        images = _images(shapes, small, rank)
        found = result.train(mode)(*images)
        _same_structure(found, expected)
        total(expected).backward()
        total(found).backward()
        trained = {name for name, p in twin.named_parameters() if p.grad is not None}
        reached = {name: p.grad for name, p in result.named_parameters() if p.grad is not None}
        assert trained <= reached.keys()
        assert all(bool(torch.isfinite(gradient).all()) for gradient in reached.values())
        result.zero_grad()
    copy.deepcopy(model).load_state_dict(fxscale.upscale_state(result), strict=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    return result.train(model.training)


def _is_the_target(
    model: nn.Module, shapes: Sequence[int], size: int, rank: int, options: dict[str, Any]
) -> None:
    same = fxscale.downscale(model, size, **options)
    arguments = options.get("concrete_args", {})
    for mode, batch in ((False, 3), (True, 3), (False, 5)):
        images = _images(shapes, size, rank, batch)
        outputs, gradients = [], []
        for network, extra in ((model, arguments), (same, {})):
            torch.manual_seed(3)
            network.zero_grad()
            output = network.train(mode)(*images, **extra)
            outputs.append([t.detach() for t in leaves(output)])
            total(output).backward()
            gradients.append({n: p.grad for n, p in network.named_parameters()})
        assert outputs[0]
        assert all(map(torch.equal, *outputs))
        for name, gradient in gradients[0].items():
            other = gradients[1][name]
            assert (gradient is None) == (other is None), name
            assert gradient is None or torch.equal(gradient, other), name
    for key, value in model.state_dict().items():
        assert torch.equal(value, same.state_dict()[key]), key


def _images(shapes: Sequence[int], size: int, rank: int, batch: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, c, *(size,) * rank, generator=generator) for c in shapes]


def leaves(value: Any) -> Iterator[Tensor]:
    """All tensors in an output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from leaves(getattr(value, field.name))


def total(value: Any) -> Tensor:
    """A scalar to which every tensor of an output contributes."""
    return torch.stack([t.float().square().mean() for t in leaves(value)]).sum()


def _same_structure(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert found.ndim == expected.ndim
        assert found.dtype == expected.dtype
        assert found.shape[:1] == expected.shape[:1]
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            _same_structure(found[key], value)
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _same_structure(one, other)
    elif is_dataclass(expected):
        for field in fields(expected):
            _same_structure(getattr(found, field.name), getattr(expected, field.name))
