"""Which operators keep the amplitude of sums over pixels.

A sum over pixels grows with their number: the pre-train network multiplies it by `n / n'`. What is
normalised over pixels falls with their number: each of `n` weights behind a softmax is about
`1 / n`, each value divided by their norm about `1 / sqrt(n)` (a *share*). It is multiplied by
`n' / n`, or its root. Where shares flow into nothing but sums over the same pixels, as in
attention, both factors are one operator behind the sum, and none where they cancel.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxscale.passes.axes import Axis, Dim, Scaling
from fxscale.passes.proxies import VALUE, tensors_in
from fxscale.passes.refusal import refusal


@dataclass(frozen=True)
class Sum:
    """`node` sums over the pixels of `axes`; `read` are the same axes as its operands have them."""

    node: fx.Node
    axes: Dim
    read: frozenset[Axis]
    power: float


@dataclass(frozen=True)
class Share:
    """`node` is normalised over the pixels of `axes`: it falls with this negative power of them."""

    node: fx.Node
    axes: Dim
    power: float


# Operators that are linear in the tensor that flows through them, and leave its pixels alone.
_LINEAR: tuple[Any, ...] = (
    F.dropout,
    torch.dropout,
    torch.clone,
    torch.mul,
    torch.div,
    operator.mul,
    operator.imul,
    operator.neg,
    operator.truediv,
    operator.getitem,
    getattr,  # `.mT`
    torch.unsqueeze,
    torch.squeeze,
    torch.flatten,
    torch.reshape,
    torch.permute,
    torch.transpose,
    torch.chunk,
    torch.split,
    *("mul", "div", "clone", "contiguous", "float", "half", "to", "type_as"),
    *("view", "view_as", "reshape", "reshape_as", "flatten", "transpose", "permute"),
    *("unsqueeze", "squeeze", "expand", "expand_as", "chunk", "split", "unbind"),
)
_LINEAR_MODULES = (nn.Dropout, nn.Identity, nn.Flatten)


class Amplitudes:
    """The sums and shares that one walk of the annotate pass finds."""

    def __init__(self) -> None:
        self._sums: dict[fx.Node, Sum] = {}
        self._shares: list[Share] = []

    def sum_over(
        self, node: fx.Node, dim: Dim, read: Iterable[Axis] | None = None, power: float = 1.0
    ) -> None:
        """Record that `node` grows with the pixels of `dim` to this power.

        `read` are the axes of its operands, where those of `dim` have joined them.
        """
        axes = _pixels(dim)
        if not axes or power == 0:
            return
        if not node.meta[VALUE].is_floating_point():
            raise refusal(
                node,
                f"{node.name!r} counts pixels in whole numbers ({node.meta[VALUE].dtype}), which "
                "cannot keep their amplitude on a smaller map",
                remedy="convert to a floating-point dtype before the sum, or take the mean",
            )
        known = self._sums.pop(node, None)
        if known is not None:  # a sum over several dimensions
            axes = (*known.axes, *axes)
            read = (*known.read, *(read or dim))
        self._sums[node] = Sum(node, axes, frozenset(read or dim), power)

    def share_over(self, node: fx.Node, dim: Dim, power: float) -> None:
        """Record that `node` is normalised over the pixels of `dim`."""
        axes = _pixels(dim)
        if axes and power != 0:
            self._shares.append(Share(node, axes, power))

    def settle(self, model: nn.Module) -> tuple[Scaling, ...]:
        """The operators to insert, for all sums and shares of a network."""
        pending = dict(self._sums)
        scalings = []
        for share in self._shares:
            reached = _sums_behind(share, pending, model)
            if reached is None:
                scalings.append(Scaling(share.node, share.axes, share.power))
                continue
            for node in reached:
                pending[node] = replace(pending[node], power=pending[node].power + share.power)
        scalings += [Scaling(s.node, s.axes, s.power) for s in pending.values() if s.power != 0]
        return tuple(scalings)


def _pixels(dim: Dim) -> Dim:
    return tuple(axis for axis in dim if axis.spatial and not axis.kernel)


def _sums_behind(
    share: Share, sums: Mapping[fx.Node, Sum], model: nn.Module
) -> set[fx.Node] | None:
    """The sums into which a share flows; `None` if it flows into anything else."""
    reached: set[fx.Node] = set()
    seen = {share.node}
    pending = [share.node]
    while pending:
        node = pending.pop()
        for user in node.users:
            if next(tensors_in(user.meta[VALUE]), None) is None:
                continue  # reads its shape
            if user in sums and set(share.axes) <= sums[user].read:
                if _reads_twice(user, seen):
                    return None
                reached.add(user)
            elif user in seen:
                return None  # multiplied by itself
            elif _linear(user, node, model):
                seen.add(user)
                pending.append(user)
            else:
                return None
    return reached


def _reads_twice(user: fx.Node, seen: Iterable[fx.Node]) -> bool:
    operands: list[fx.Node] = []
    fx.node.map_arg((user.args, user.kwargs), operands.append)
    return sum(operand in set(seen) for operand in operands) > 1


def _linear(user: fx.Node, operand: fx.Node, model: nn.Module) -> bool:
    if user.op == "call_module":
        return isinstance(model.get_submodule(str(user.target)), _LINEAR_MODULES)
    if user.target in (torch.div, operator.truediv, "div"):
        return bool(user.args) and user.args[0] is operand
    return user.target in _LINEAR
