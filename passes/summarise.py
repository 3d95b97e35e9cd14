"""Pass 8, summarise: write down all decisions as a `ScalePlan`, before a tensor is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from fxscale.fingerprint import fingerprint_of_shapes
from fxscale.modes import TRAIN
from fxscale.passes.axes import (
    AnnotatedNetwork,
    Axis,
    ConvSite,
    Dim,
    LinearSite,
    Shape,
    is_spatial,
    map_axes,
    pretrain_length,
    target_length,
)
from fxscale.passes.concatenations import Concatenation
from fxscale.passes.geometry import Geometry
from fxscale.passes.padding import Paddings
from fxscale.passes.refusal import module_path
from fxscale.passes.sites import Convolution, Sites
from fxscale.passes.trace import TracedNetwork
from fxscale.plan import (
    ConvCall,
    ConvPlan,
    FeatureMap,
    InterfacePlan,
    ModuleVersion,
    PoolPlan,
    ScalePlan,
    Size,
    StateMap,
)


@dataclass(frozen=True)
class Request:
    """What was asked of the compiler, as the plan records it."""

    target_size: Size
    pretrain_size: Size
    target_size_source: str
    kernels: str


def summarise(
    traced: TracedNetwork,
    request: Request,
    network: AnnotatedNetwork,
    sites: Sites,
    kernels: Mapping[str, tuple[int, ...]],
    geometry: Geometry,
    paddings: Paddings,
    state: Sequence[StateMap],
) -> ScalePlan:
    """The plan; what is computed per call counts the train mode, the one that takes the time."""
    trained = frozenset(traced.order[TRAIN])
    return ScalePlan(
        model=type(traced.model).__name__,
        fingerprint=fingerprint_of_shapes({entry.key: entry.target_shape for entry in state}),
        target_size=request.target_size,
        pretrain_size=request.pretrain_size,
        target_size_source=request.target_size_source,
        kernels=request.kernels,
        convs=tuple(
            _conv(c, kernels[c.weight], geometry, paddings, trained) for c in sites.convolutions
        ),
        pools=tuple(
            PoolPlan(node.name, module_path(node), pool.before, pool.after)
            for node, pool in paddings.pools.items()
        ),
        interfaces=tuple(p for site in sites.interfaces for p in _interfaces(site, geometry)),
        feature_maps=tuple(_feature_maps(network, geometry)),
        pad_operators=pad_operators(geometry, paddings),
        dense_macs=_dense_macs([s for s in sites.linears if s.node in trained], geometry),
        state=tuple(state),
        module_versions=tuple(_module_versions(traced.model)),
    )


def _module_versions(model: nn.Module) -> Iterator[ModuleVersion]:
    """torch's own classes are left out: they read states of any version that have all entries."""
    for path, module in model.named_modules():
        version = getattr(module, "_version", nn.Module._version)
        if version != nn.Module._version and not type(module).__module__.startswith("torch.nn."):
            yield ModuleVersion(path, version)


def pad_operators(geometry: Geometry, paddings: Paddings) -> tuple[str, ...]:
    """Names of the pad and crop operators that have to be inserted."""
    adapted = dict.fromkeys((a.join.name, a.operand.name) for a in geometry.adapters)
    return (
        *(node.name for node in paddings.extra),
        *(node.name for node, pool in paddings.pools.items() if pool.extra is not None),
        *(f"{operand} -> {join}" for join, operand in adapted),
    )


def _conv(
    convolution: Convolution,
    kernel_size: tuple[int, ...],
    geometry: Geometry,
    paddings: Paddings,
    trained: frozenset[fx.Node],
) -> ConvPlan:
    first = convolution.first
    calls = [call for call in convolution.calls if call.node in trained] or convolution.calls
    return ConvPlan(
        name=convolution.name,
        weight=convolution.weight,
        operator=first.operator,
        in_channels=first.in_channels,
        out_channels=first.out_channels,
        groups=first.groups,
        kernel_size=convolution.kernel_size,
        pretrain_kernel_size=kernel_size,
        stride=first.stride,
        dilation=first.dilation,
        transposed=first.transposed,
        calls=tuple(_call(call, geometry, paddings) for call in calls),
    )


def _call(call: ConvSite, geometry: Geometry, paddings: Paddings) -> ConvCall:
    return ConvCall(
        node=call.node.name,
        target_input=tuple(target_length(dim) for dim in call.inputs),
        target_output=tuple(target_length(dim) for dim in call.outputs),
        pretrain_input=tuple(pretrain_length(dim, geometry.lengths) for dim in call.inputs),
        pretrain_output=tuple(pretrain_length(dim, geometry.lengths) for dim in call.outputs),
        target_padding=call.padding,
        pretrain_padding=paddings.calls[call.node],
        pad_operator=call.node in paddings.extra,
    )


def _interfaces(site: LinearSite, geometry: Geometry) -> Iterator[InterfacePlan]:
    """One plan a feature map: a linear layer over concatenated maps reads several."""
    maps = [dim for dim in _in_parts(site.dim) if is_spatial(dim)]
    for index, dim in enumerate(maps):
        spatial = [axis for axis in dim if axis.spatial]
        yield InterfacePlan(
            name=site.name if len(maps) == 1 else f"{site.name} (map {index + 1})",
            weight=site.weight,
            channels=target_length(tuple(axis for axis in dim if not axis.spatial)),
            out_features=target_length(site.out),
            target_size=tuple(axis.target for axis in spatial),
            pretrain_size=tuple(geometry.lengths[axis] for axis in spatial),
        )


def _in_parts(dim: Dim) -> Iterator[Dim]:
    for index, axis in enumerate(dim):
        if isinstance(axis, Concatenation):
            for part in axis.parts:
                yield from _in_parts((*dim[:index], *part, *dim[index + 1 :]))
            return
    yield dim


def _dense_macs(linears: Sequence[LinearSite], geometry: Geometry) -> tuple[int, int]:
    """Multiply-accumulates per sample; the first row dimension is the batch."""
    target = pretrain = 0
    for site in linears:
        small = large = 1
        for dim in (*site.rows[1:], site.dim, site.out):
            large *= target_length(dim)
            small *= pretrain_length(dim, geometry.lengths)
        target, pretrain = target + large, pretrain + small
    return target, pretrain


def _feature_maps(network: AnnotatedNetwork, geometry: Geometry) -> list[FeatureMap]:
    """Every node at which new spatial axes appear, in the order of the flow."""
    maps: dict[fx.Node, list[Axis]] = {}
    seen: set[Axis] = set()
    for node, annotation in network.annotations.items():
        if not isinstance(annotation, Shape):
            continue
        axes = [a for dim in annotation.dims for a in map_axes(dim) if not a.kernel]
        if axes and not seen.issuperset(axes):
            maps[node] = axes
            seen.update(axes)
    return [
        FeatureMap(
            node=node.name,
            module=module_path(node),
            target_size=tuple(axis.target for axis in axes),
            pretrain_size=tuple(geometry.lengths[axis] for axis in axes),
            drift=tuple(round(geometry.drift(axis), 6) for axis in axes),
        )
        for node, axes in maps.items()
    ]
