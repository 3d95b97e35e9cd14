"""Part of pass 9: operators that resize constants of the target where they meet a feature map.

One operator per constant and size, however many layers use it; none at the target's size. Tables of
relative positions are resized over their distances first (`passes/distances.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import fx

from fxscale.constants import resize_constant
from fxscale.distances import resize_distances
from fxscale.passes.axes import Lengths, Resampling
from fxscale.passes.concatenations import part_lengths
from fxscale.passes.distances import Distances

Step = tuple[Callable[..., Any], tuple[Any, ...]]


def insert_resamplings(
    graph: fx.Graph, resamplings: Sequence[Resampling], lengths: Lengths
) -> None:
    resized: dict[tuple[Any, ...], fx.Node] = {}
    for resampling in resamplings:
        constant = resampling.operand
        for function, arguments in _steps(resampling, lengths):
            key = (function, constant, arguments)
            if key not in resized:
                with graph.inserting_after(constant):
                    resized[key] = graph.call_function(function, (constant, *arguments))
                stack = resampling.node.meta.get("nn_module_stack")
                resized[key].meta["nn_module_stack"] = stack
            constant = resized[key]
        if constant is not resampling.operand:
            resampling.node.replace_input_with(resampling.operand, constant)


def _steps(resampling: Resampling, lengths: Lengths) -> Iterator[Step]:
    """The functions to call one after the other, with their arguments behind the constant."""
    before = [part_lengths(dim) for dim in resampling.dims]
    after = [part_lengths(dim, lengths) for dim in resampling.dims]
    for index, dim in enumerate(resampling.dims):
        axis = dim[0] if len(dim) == 1 else None
        if isinstance(axis, Distances):
            ends = (axis.rows, axis.columns)
            large = (axis.target, *(end.target for end in ends), axis.first)
            small = (
                axis.length(lengths),
                *(end.length(lengths) for end in ends),
                axis.first - axis.fewer(lengths),
            )
            before[index] = after[index]
            if large != small:
                yield resize_distances, (index, large, small, resampling.nearest)
    if before != after:
        yield resize_constant, (tuple(before), tuple(after), resampling.nearest)
