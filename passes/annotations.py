"""Annotations of plain values, and what can be asked of any annotation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxscale.passes.axes import (
    Annotation,
    Axis,
    Dims,
    Extent,
    Shape,
    fixed_dim,
    is_spatial,
    map_axes,
    target_length,
)
from fxscale.passes.proxies import VALUE, tensors_in
from fxscale.passes.refusal import refusal


def fixed_dims(lengths: Sequence[int]) -> Dims:
    return tuple(map(fixed_dim, lengths))


def fixed_shape(value: torch.Tensor) -> Shape:
    return Shape(fixed_dims(value.shape))


def fixed_annotation(value: Any, kind: type[Shape] = Shape) -> Annotation:
    """The annotation of a value that has the same shape in both networks, or sizes itself."""
    if isinstance(value, torch.Tensor):
        return kind(fixed_dims(value.shape))
    if isinstance(value, tuple | list):
        return tuple(fixed_annotation(item, kind) for item in value)
    if isinstance(value, dict):
        return {key: fixed_annotation(item, kind) for key, item in value.items()}
    return None


def is_tensor_annotation(annotation: Annotation) -> bool:
    if isinstance(annotation, tuple | list):
        return any(map(is_tensor_annotation, annotation))
    if isinstance(annotation, dict):
        return any(map(is_tensor_annotation, annotation.values()))
    return isinstance(annotation, Shape)


def spatial_axes(annotation: Annotation) -> Iterator[Axis]:
    """The spatial axes of all tensors in an annotation."""
    if isinstance(annotation, Shape):
        yield from (axis for dim in annotation.dims for axis in map_axes(dim))
    elif isinstance(annotation, tuple | list):
        for item in annotation:
            yield from spatial_axes(item)
    elif isinstance(annotation, dict):
        for item in annotation.values():
            yield from spatial_axes(item)


def carries_size(annotation: Annotation) -> bool:
    """Whether a spatial size could flow through something with this annotation."""
    if isinstance(annotation, tuple | list):
        return any(map(carries_size, annotation))
    if isinstance(annotation, dict):
        return any(map(carries_size, annotation.values()))
    if isinstance(annotation, Shape):
        return any(map(is_spatial, annotation.dims))
    return isinstance(annotation, Extent) and is_spatial(annotation.dim)


def measures_a_map(node: fx.Node, annotations: Mapping[fx.Node, Annotation]) -> bool:
    """Whether a plain value was computed from the length of a spatial axis."""
    return any(is_spatial(extent.dim) for extent in _extents(node, annotations))


def measures_the_batch(node: fx.Node, annotations: Mapping[fx.Node, Annotation]) -> bool:
    """Whether a plain value was computed from the length of the batch."""
    return any(axis.batch for extent in _extents(node, annotations) for axis in extent.dim)


def _extents(node: fx.Node, annotations: Mapping[fx.Node, Annotation]) -> Iterator[Extent]:
    """The lengths that a plain value was computed from."""
    found = annotations.get(node)
    known = found if isinstance(found, tuple | list) else (found,)
    if any(isinstance(item, Extent) for item in known):
        yield from (item for item in known if isinstance(item, Extent))
    elif next(tensors_in(node.meta[VALUE]), None) is None:
        for source in node.all_input_nodes:
            yield from _extents(source, annotations)


def divides_the_batch(node: fx.Node, annotations: Mapping[fx.Node, Annotation]) -> bool:
    """Whether a node makes pieces of a tensor along its batch."""
    sources, pieces = node.all_input_nodes, annotations.get(node)
    source = annotations.get(sources[0]) if sources else None
    if not isinstance(source, Shape) or not isinstance(pieces, tuple | list):
        return False
    batch = {axis for dim in source.dims for axis in dim if axis.batch}
    return any(
        isinstance(piece, Shape) and not batch <= {axis for dim in piece.dims for axis in dim}
        for piece in pieces
    )


def check_shape(node: fx.Node, annotation: Annotation) -> None:
    """Hold an annotation to the shape that the target's own forward computes."""
    pairs = [(annotation, node.meta[VALUE])]
    while pairs:
        found, value = pairs.pop()
        if isinstance(found, tuple | list) and isinstance(value, tuple | list):
            pairs += zip(found, value, strict=False)
        if isinstance(found, Shape) and isinstance(value, torch.Tensor):
            shape = tuple(target_length(dim) for dim in found.dims)
            if shape != tuple(value.shape):
                raise refusal(
                    node,
                    f"the compiler expected the shape {shape}, the model computes "
                    f"{tuple(value.shape)}",
                    remedy="report this as a bug of the operator's handler, or register your "
                    "own with fxscale.register",
                )
