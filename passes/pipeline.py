"""The compiler: the passes in the order in which a network flows through them.

    trace -> annotate -> find sites -> choose kernels -> solve geometry -> place paddings
          -> invert -> summarise -> rewrite -> verify

Nothing is built before everything is known to be possible: up to `summarise`, the passes only read
the graph and return frozen data; `rewrite` makes the pre-train network, `verify` checks it. Set
`FXSCALE_PRINT=1` to watch the result of every pass.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from fxscale.errors import SizeError, UnsupportedModelError
from fxscale.passes.annotate import annotate
from fxscale.passes.axes import AnnotatedNetwork
from fxscale.passes.geometry import Geometry, solve_geometry
from fxscale.passes.inputs import InputSpec
from fxscale.passes.invert import invert
from fxscale.passes.kernels import KernelPolicy, choose_kernels
from fxscale.passes.ops.registry import registered_leaf_types
from fxscale.passes.padding import place_paddings
from fxscale.passes.printing import print_pass
from fxscale.passes.rewrite import rewrite
from fxscale.passes.sites import Sites, find_sites
from fxscale.passes.sizes import choose_input_size
from fxscale.passes.summarise import Request, summarise
from fxscale.passes.trace import trace
from fxscale.passes.verify import verify
from fxscale.plan import Size
from fxscale.pretrain_network import PretrainNetwork
from fxscale.resample import Init

Result = TypeVar("Result")


@dataclass(frozen=True)
class Options:
    """What the user may choose, as `fxscale.downscale` documents it."""

    input_size: Size | None = None
    kernels: KernelPolicy = "paper"
    keep: tuple[str, ...] = ()
    init: Init = "fan"
    leaf_modules: tuple[type[nn.Module], ...] = ()
    concrete_args: Mapping[str, Any] = field(default_factory=dict)
    target_size_source: str = "given"


@dataclass
class Timings:
    """Seconds per pass, in the order of the flow."""

    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        self.seconds[name] = time.perf_counter() - start
        if os.environ.get("FXSCALE_PRINT") == "1":
            print_pass(name, self.seconds[name], result)
        return result


def compile_network(
    model: nn.Module, inputs: InputSpec, options: Options, timings: Timings | None = None
) -> PretrainNetwork:
    """Run all passes over `model`; the model is not changed."""
    run = (timings or Timings()).run
    traced = run(
        "trace",
        trace,
        model,
        inputs,
        leaf_types=registered_leaf_types(),
        opaque_types=options.leaf_modules,
        concrete_args=options.concrete_args,
    )
    network = run("annotate", annotate, traced)
    sites = run("find sites", find_sites, traced.model, network)
    target_size = inputs.image_size()
    small_size = _pretrain_size(options.input_size, network, sites, target_size)
    ratios = [small / large for small, large in zip(small_size, target_size, strict=True)]
    chosen = run("choose kernels", choose_kernels, sites, options.kernels, options.keep, ratios)
    lengths = [
        tuple(_resize(axis.target, ratio) for axis, ratio in zip(axes, ratios, strict=True))
        for axes in network.inputs
    ]
    geometry = run("solve geometry", solve_geometry, network, chosen, lengths)
    kernels = _follow_maps(sites, chosen, geometry)
    paddings = run("place paddings", place_paddings, sites, kernels, geometry)
    state = run("invert", invert, traced.model, network, sites, kernels, geometry.lengths)
    request = Request(
        target_size, small_size, options.target_size_source, _policy_name(options.kernels)
    )
    plan = run(
        "summarise",
        summarise,
        traced,
        request,
        network,
        sites,
        kernels,
        geometry,
        paddings,
        state,
    )
    small = run(
        "rewrite",
        rewrite,
        traced,
        network,
        sites,
        kernels,
        geometry,
        paddings,
        plan,
        options.init,
    )
    run(
        "verify",
        verify,
        small,
        traced,
        network,
        geometry.lengths,
        lambda size: tuple(_resize(n, ratio) for n, ratio in zip(size, ratios, strict=True)),
    )
    return small


def _resize(length: int, ratio: float) -> int:
    return max(1, round(length * ratio))


def _pretrain_size(
    requested: Size | None,
    network: AnnotatedNetwork,
    sites: Sites,
    target_size: Size,
) -> Size:
    if requested is None:
        return choose_input_size(network, sites, target_size)
    for small, large in zip(requested, target_size, strict=True):
        if small > large:
            raise SizeError(
                f"input_size {requested} is larger than the target's {target_size}; the "
                "pre-train network reads smaller images, choose a size below the target's"
            )
    return requested


def _follow_maps(
    sites: Sites, chosen: Mapping[str, tuple[int, ...]], geometry: Geometry
) -> dict[str, tuple[int, ...]]:
    """Kernels that cover their whole map get the length of the pre-train map."""
    kernels = dict(chosen)
    for convolution in sites.convolutions:
        sizes = list(chosen[convolution.weight])
        for position in range(len(sizes)):
            covered = {geometry.lengths[axis] for axis in convolution.tied(position)}
            if len(covered) > 1:
                raise UnsupportedModelError(
                    f"a convolution covers whole maps of different lengths: {sorted(covered)}",
                    node=convolution.first.node.name,
                    module=convolution.name,
                    remedy="use one layer per feature map, or another input_size",
                )
            sizes[position] = covered.pop() if covered else sizes[position]
        kernels[convolution.weight] = tuple(sizes)
    return kernels


def _policy_name(policy: KernelPolicy) -> str:
    if isinstance(policy, str):
        return policy
    return "mapping" if isinstance(policy, Mapping) else "callable"
