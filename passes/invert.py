"""Pass 7, invert: for every entry of the state, the linear operator back to the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import (
    AnnotatedNetwork,
    ComputedWeight,
    Dim,
    Lengths,
    fixed_dim,
    is_spatial,
    pretrain_length,
    pretrain_lengths,
    target_length,
)
from fxscale.passes.concatenations import Concatenation
from fxscale.passes.sites import Sites, check_interfaces
from fxscale.plan import Kind, StateMap


def invert(
    model: nn.Module,
    network: AnnotatedNetwork,
    sites: Sites,
    kernels: Mapping[str, tuple[int, ...]],
    lengths: Lengths,
) -> tuple[StateMap, ...]:
    """One `StateMap` per entry of the target's state dict, in its order.

    Entries that share a tensor (tied weights) share its map.
    """
    check_interfaces(sites, lengths)
    state: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    used: dict[int, StateMap] = {}
    tensors = _named_tensors(model)
    for state_map in _used(tensors, network, sites, kernels, lengths):
        tensor = tensors[state_map.key]
        known = used.setdefault(id(tensor), state_map)
        alike = _meaning(known) == _meaning(state_map)
        if not alike and (_changes(known) or _changes(state_map)):
            raise UnsupportedModelError(
                f"the tensor {state_map.key!r} is used in two ways that scale differently "
                f"({known.kind} as {known.key!r}, {state_map.kind})",
                remedy="use separate parameters",
            )
    resized = {tensor: state_map for tensor, state_map in used.items() if _changes(state_map)}
    return tuple(_map_for(key, entry, resized.get(id(entry))) for key, entry in state.items())


def _meaning(state_map: StateMap) -> tuple[object, ...]:
    """What a map does, however its view writes axes of length one."""
    views = (state_map.pretrain_view, state_map.target_view)
    longer = [pair for pair in zip(*views, strict=True) if pair != (1, 1)]
    return state_map.kind, longer, state_map.of, state_map.centred


def _changes(state_map: StateMap) -> bool:
    return state_map.kind == "gain" or state_map.pretrain_view != state_map.target_view


def _named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _used(
    tensors: Mapping[str, torch.Tensor],
    network: AnnotatedNetwork,
    sites: Sites,
    kernels: Mapping[str, tuple[int, ...]],
    lengths: Lengths,
) -> Iterator[StateMap]:
    """The map of every tensor that has a spatial meaning, also where its size stays."""
    for convolution in sites.convolutions:
        if convolution.obstacle is not None:
            continue  # its kernel is kept
        if convolution.computed is not None:
            yield from _computed(convolution.computed, tensors, lengths)
            continue
        if convolution.weight not in tensors:
            continue  # a constant of the code, which is no state: its kernel is kept
        shape = tuple(tensors[convolution.weight].shape)
        small = (*shape[:2], *kernels[convolution.weight])
        makes_map = convolution.first.transposed and any(convolution.first.tied)
        kind: Kind = "unflattened" if makes_map else "kernel"
        yield StateMap(convolution.weight, kind, small, shape, small, shape)
    for interface in sites.interfaces:
        shape = tuple(tensors[interface.weight].shape)
        dims = (fixed_dim(shape[0]), interface.dim)
        yield _laid_out(interface.weight, "interface", dims, lengths)
    for linear in sites.linears:
        if is_spatial(linear.out):
            yield _laid_out(linear.weight, "unflattened", (linear.out, linear.dim), lengths)
    for feature in network.features:
        yield _laid_out(feature.key, "feature", feature.dims, lengths)


def _laid_out(key: str, kind: Kind, dims: Sequence[Dim], lengths: Lengths) -> StateMap:
    """The map of an entry whose dimensions are made of these axes, part by part."""
    axes = tuple(axis for dim in dims for axis in dim)
    parts: tuple[StateMap, ...] = ()
    place = next((i for i, axis in enumerate(axes) if isinstance(axis, Concatenation)), 0)
    concatenation = axes[place] if axes else None
    if isinstance(concatenation, Concatenation):
        singles = [(axis,) for axis in axes]
        parts = tuple(
            _laid_out(key, kind, (*singles[:place], part, *singles[place + 1 :]), lengths)
            for part in concatenation.parts
        )
    return StateMap(
        key=key,
        kind=kind,
        pretrain_shape=tuple(pretrain_length(dim, lengths) for dim in dims),
        target_shape=tuple(target_length(dim) for dim in dims),
        pretrain_view=pretrain_lengths(axes, lengths),
        target_view=tuple(axis.target for axis in axes),
        parts=parts,
        parts_axis=place,
    )


def _computed(
    weight: ComputedWeight, tensors: Mapping[str, torch.Tensor], lengths: Lengths
) -> Iterator[StateMap]:
    for entry in weight.entries:
        shape = tuple(tensors[entry.key].shape)
        target = tuple(axis.target for dim in entry.dims for axis in dim)
        small = tuple(n for dim in entry.dims for n in pretrain_lengths(dim, lengths))
        # Dimensions of length one are no axes; the shape keeps them.
        sizes = [_product(pretrain_lengths(dim, lengths)) for dim in entry.dims]
        yield StateMap(entry.key, entry.kind, tuple(sizes), shape, small, target)
    kernel = weight.entries[0]
    if weight.gain is not None and any(
        lengths[axis] != axis.target for dim in kernel.dims for axis in dim if axis.kernel
    ):
        shape, view = tuple(tensors[weight.gain].shape), weight.gain_view
        yield StateMap(
            weight.gain, "gain", shape, shape, view, view, of=kernel.key, centred=weight.centred
        )


def _product(values: tuple[int, ...]) -> int:
    return int(torch.Size(values).numel())


def _map_for(key: str, entry: object, resized: StateMap | None) -> StateMap:
    if not isinstance(entry, torch.Tensor):
        raise UnsupportedModelError(
            f"the state dict holds {key!r}, which is a {type(entry).__name__}, not a tensor",
            remedy="keep extra state out of the model's state dict",
        )
    shape = tuple(entry.shape)
    if resized is None:
        return StateMap(key, "copy", shape, shape, shape, shape)
    return replace(resized, key=key)
