"""Helpers for the tests of the passes: small networks, and what they do when they run for real."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.passes.annotate import annotate
from fxscale.passes.axes import AnnotatedNetwork, Axis
from fxscale.passes.geometry import Geometry, solve_geometry
from fxscale.passes.inputs import describe_inputs
from fxscale.passes.kernels import choose_kernels
from fxscale.passes.sites import Sites, find_sites
from fxscale.passes.trace import TracedNetwork, trace

CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Around(nn.Module):
    """A 3x3 convolution, then `body(self, features)`, whatever is under test."""

    def __init__(
        self, body: Callable[[Any, Tensor], Any], *, channels: int = 4, **modules: nn.Module
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, self.conv(x))


def traced(model: nn.Module, size: int | tuple[int, ...] = 12, **options: Any) -> TracedNetwork:
    """`model` after the trace pass."""
    rank = next(
        m.weight.ndim - 2 for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)
    )
    full = (size,) * rank if isinstance(size, int) else size
    inputs = describe_inputs(model, full, None, options.get("concrete_args", {}))
    return trace(model, inputs, **options)


def annotated(model: nn.Module, size: int | tuple[int, ...] = 12) -> AnnotatedNetwork:
    """`model` after the annotate pass."""
    return annotate(traced(model, size))


def sites_of(model: nn.Module, size: int | tuple[int, ...] = 12) -> Sites:
    """The sites of `model`."""
    network = traced(model, size)
    return find_sites(network.model, annotate(network))


def solved(model: nn.Module, target: int, small: int) -> tuple[AnnotatedNetwork, Sites, Geometry]:
    """`model` after the geometry pass, with the paper's kernels."""
    network = traced(model, target)
    found = annotate(network)
    sites = find_sites(network.model, found)
    ratio = small / target
    kernels = choose_kernels(sites, "paper", (), [ratio] * len(found.inputs[0]))
    lengths: list[tuple[int, ...]] = [(small,) * len(axes) for axes in found.inputs]
    return found, sites, solve_geometry(found, kernels, lengths)


def layout(network: AnnotatedNetwork, name: str) -> str:
    """The axes of the node `name`, as `(2) (4) (~12) (~12)`; `~` marks spatial axes."""
    by_name = {node.name: annotation for node, annotation in network.annotations.items()}
    return str(by_name[name])


def image_axes(network: AnnotatedNetwork) -> tuple[Axis, ...]:
    """The axes of the first image."""
    return network.inputs[0]


def map_sizes(model: nn.Module, image: Tensor) -> dict[str, tuple[int, ...]]:
    """Spatial output size of every leaf module, measured with forward hooks on a real run."""
    sizes: dict[str, tuple[int, ...]] = {}
    hooks = []
    for name, module in model.named_modules():
        if next(module.children(), None) is not None:
            continue

        def note(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            sizes[name] = tuple(output.shape[2:])

        hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def kernel_sizes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Kernel size of every convolution, read from the shape of its weight."""
    return {
        name: tuple(module.weight.shape[2:])
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    }


def pad_nodes(small: fxscale.PretrainNetwork) -> list[str]:
    """Names of the pad operators in the generated code."""
    return [node.name for node in small.graph.nodes if node.target in (F.pad, torch._C._nn.pad)]


def assert_same_outputs(small: nn.Module, by_hand: nn.Module, image: Tensor) -> None:
    """Assert that both networks compute the same from the state of `small`, in both modes."""
    by_hand.load_state_dict(copy.deepcopy(small.state_dict()))
    for mode in (True, False):
        expected = by_hand.train(mode)(image)
        torch.testing.assert_close(small.train(mode)(image), expected)
    assert isinstance(expected, Tensor)


def assert_identical_at_its_own_size(model: nn.Module, size: int) -> fxscale.PretrainNetwork:
    """Assert that with nothing scaled the compiled network is the model bit for bit."""
    same = fxscale.downscale(model, size, target_size=size, kernels={})
    image = torch.randn(2, 3, size, size)
    assert torch.equal(same(image), model(image))
    return same


def assert_gradients_reach_every_parameter(small: nn.Module, image: Tensor) -> None:
    """Assert that one backward pass leaves a finite gradient on every parameter."""
    small(image).square().sum().backward()
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
