"""The compiler: the passes in the order in which a network flows through them.

    trace -> annotate -> find sites -> choose kernels -> solve geometry -> place paddings
          -> invert -> summarise -> rewrite -> verify

Nothing is built before everything is known to be possible: up to `summarise`, the passes only read
the graph and return frozen data; `rewrite` makes the pre-train network, `verify` checks it. Set
`FXSCALE_PRINT=1` to watch the result of every pass.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from fxscale.errors import FxscaleError, SizeError, UnsupportedModelError, first_line
from fxscale.passes.annotate import annotate
from fxscale.passes.axes import AnnotatedNetwork
from fxscale.passes.geometry import Geometry, solve_geometry, with_kernel_axes
from fxscale.passes.inputs import InputSpec
from fxscale.passes.invert import invert
from fxscale.passes.kernels import KernelPolicy, choose_kernels
from fxscale.passes.ops.registry import registered_leaves
from fxscale.passes.padding import Paddings, place_paddings
from fxscale.passes.printing import print_pass
from fxscale.passes.refusal import refusal
from fxscale.passes.rewrite import rewrite
from fxscale.passes.sites import Sites, find_sites
from fxscale.passes.sizes import choose_input_size
from fxscale.passes.summarise import Request, summarise
from fxscale.passes.trace import TracedNetwork, trace
from fxscale.passes.verify import verify
from fxscale.plan import Size
from fxscale.pretrain_network import PretrainNetwork
from fxscale.resample import Init

Result = TypeVar("Result")
Run = Callable[..., Any]
"""Runs a pass: `Timings.run`, or `quietly`."""


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
        try:
            result = function(*args, **kwargs)
        except (FxscaleError, MemoryError):
            raise
        except Exception as error:  # a mistake in the pass, which no network may meet bare
            raise UnsupportedModelError(
                f"the pass {name!r} failed on it: {type(error).__name__}: {first_line(error)}",
                remedy="please report it, with the traceback: it is a mistake in fxscale. A module "
                "that leads to it can be kept whole, with a handler from fxscale.register",
            ) from error
        self.seconds[name] = time.perf_counter() - start
        if os.environ.get("FXSCALE_PRINT") == "1":
            print_pass(name, self.seconds[name], result)
        return result


@dataclass(frozen=True)
class Target:
    """What is known of the target network before a pre-train size is chosen."""

    traced: TracedNetwork
    network: AnnotatedNetwork
    sites: Sites
    size: Size


@dataclass(frozen=True)
class Solution:
    """Kernels, lengths and paddings for one pre-train size."""

    size: Size
    ratios: tuple[float, ...]
    kernels: Mapping[str, tuple[int, ...]]
    geometry: Geometry
    paddings: Paddings

    def resize(self, size: Size) -> Size:
        """The pre-train size of an image that has this size in the target."""
        return tuple(map(_resize, size, self.ratios))


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's cycle collector, which would walk over all of torch's own objects.

    It finds next to nothing here, and takes a fifth of the time that a network compiles in.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def compile_network(
    model: nn.Module, inputs: InputSpec, options: Options, timings: Timings | None = None
) -> PretrainNetwork:
    """Run all passes over `model`; the model is not changed."""
    run = (timings or Timings()).run
    target = read_target(model, inputs, options, run)
    traced, network, sites = target.traced, target.network, target.sites
    solution = solve_or_suggest(target, pretrain_size(options.input_size, target), options, run)
    kernels, geometry, paddings = solution.kernels, solution.geometry, solution.paddings
    state = run("invert", invert, traced.model, network, sites, kernels, geometry.lengths)
    request = Request(
        target.size, solution.size, options.target_size_source, _policy_name(options.kernels)
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
    run("verify", verify, small, traced, network, geometry.lengths, solution.resize)
    return small


def read_target(model: nn.Module, inputs: InputSpec, options: Options, run: Run) -> Target:
    """The passes that need no pre-train size: they are the same for every one."""
    traced = run(
        "trace",
        trace,
        model,
        inputs,
        leaves=registered_leaves(),
        opaque_types=options.leaf_modules,
        concrete_args=options.concrete_args,
    )
    network = run("annotate", annotate, traced)
    sites = run("find sites", find_sites, traced.model, network)
    return Target(traced, network, sites, inputs.image_size())


def solve(target: Target, size: Size, options: Options, run: Run) -> Solution:
    """The passes that decide for one pre-train size. Raises `SizeError` where it is too small."""
    ratios = tuple(small / large for small, large in zip(size, target.size, strict=True))
    chosen = run(
        "choose kernels", choose_kernels, target.sites, options.kernels, options.keep, ratios
    )
    lengths = [
        tuple(_resize(axis.target, ratio) for axis, ratio in zip(axes, ratios, strict=True))
        for axes in target.network.inputs
    ]
    geometry = run("solve geometry", solve_geometry, target.network, chosen, lengths)
    kernels = _follow_maps(target.sites, chosen, geometry)
    geometry = with_kernel_axes(geometry, target.sites, kernels)
    paddings = run("place paddings", place_paddings, target.sites, kernels, geometry)
    return Solution(size, ratios, kernels, geometry, paddings)


def solve_or_suggest(target: Target, size: Size, options: Options, run: Run) -> Solution:
    """`solve`; the smallest size that works replaces a default that is too small.

    Where the user chose the size, the error names it.
    """
    try:
        return solve(target, size, options, run)
    except SizeError as error:
        smallest = _smallest_that_works(target, size, options)
        if smallest is None:
            raise
        if options.input_size is None:
            return solve(target, smallest, options, run)
        written = smallest[0] if len(set(smallest)) == 1 else smallest
        raise SizeError(f"{error}; the smallest input_size that works is {written}") from error


def _smallest_that_works(target: Target, size: Size, options: Options) -> Size | None:
    """The next larger size of the same shape with a solution."""
    for length in range(size[0] + 1, target.size[0] + 1):
        larger = tuple(
            min(large, max(small, round(small * length / size[0])))
            for small, large in zip(size, target.size, strict=True)
        )
        try:
            solve(target, larger, options, quietly)
        except (SizeError, UnsupportedModelError):
            continue
        return larger
    return None


def quietly(name: str, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """`Timings.run` for a pass that is neither timed nor printed."""
    return function(*args, **kwargs)


def _resize(length: int, ratio: float) -> int:
    return max(1, round(length * ratio))


def pretrain_size(requested: Size | None, target: Target) -> Size:
    """The size asked for, or the paper's. Raises `SizeError` for one larger than the target's."""
    if requested is None:
        return choose_input_size(target.network, target.sites, target.size)
    for small, large in zip(requested, target.size, strict=True):
        if small > large:
            raise SizeError(
                f"input_size {requested} is larger than the target's {target.size}; the "
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
                raise refusal(
                    convolution.first.node,
                    f"a convolution covers whole maps of different lengths: {sorted(covered)}",
                    remedy="use one layer per feature map, or another input_size",
                    module=convolution.name,
                )
            sizes[position] = covered.pop() if covered else sizes[position]
        kernels[convolution.weight] = tuple(sizes)
    return kernels


def _policy_name(policy: KernelPolicy) -> str:
    if isinstance(policy, str):
        return policy
    return "mapping" if isinstance(policy, Mapping) else "callable"
