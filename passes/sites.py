"""Pass 3, find sites: gather the calls of each convolution, and the fully connected interfaces."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from torch import nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import (
    AnnotatedNetwork,
    Axis,
    ComputedWeight,
    ConvSite,
    Dim,
    Lengths,
    LinearSite,
    is_spatial,
    pretrain_lengths,
)
from fxscale.passes.refusal import refusal


@dataclass(frozen=True)
class Convolution:
    """One kernel of the target with all of its calls; `learnable` is false for fixed filters.

    `computed` says how its weight is computed where it is no parameter.
    """

    name: str
    weight: str
    calls: tuple[ConvSite, ...]
    learnable: bool
    computed: ComputedWeight | None = None

    @property
    def first(self) -> ConvSite:
        return self.calls[0]

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.first.kernel_size

    @property
    def stride(self) -> tuple[int, ...]:
        return self.first.stride

    @property
    def obstacle(self) -> UnsupportedModelError | None:
        """What keeps the compiler from resizing the kernel."""
        return next((call.obstacle for call in self.calls if call.obstacle), None)

    def scales(self, position: int) -> bool:
        """Whether the kernel runs over a spatial axis here, in every call."""
        return all(call.scales[position] for call in self.calls)

    def tied(self, position: int) -> tuple[Axis, ...]:
        """The axes that the kernel covers whole, one per call; none if it does not."""
        axes = (call.tied[position] for call in self.calls)
        return tuple(axis for axis in axes if axis is not None)


@dataclass(frozen=True)
class Sites:
    """Everything in the network that has another size in the pre-train network."""

    convolutions: tuple[Convolution, ...]
    interfaces: tuple[LinearSite, ...]
    linears: tuple[LinearSite, ...]


def find_sites(model: nn.Module, network: AnnotatedNetwork) -> Sites:
    """Group the calls by weight, so that a module that is called twice keeps one kernel."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    calls: dict[str, list[ConvSite]] = {}
    for call in network.convs:
        calls.setdefault(call.weight, []).append(call)
    convolutions = tuple(
        Convolution(
            group[0].name,
            weight,
            tuple(group),
            weight in parameters or group[0].obstacle is not None,
            group[0].computed,
        )
        for weight, group in calls.items()
    )
    convolutions = _gains_apart(convolutions)
    for convolution in convolutions:
        _check_calls(convolution)
    if not convolutions:
        raise UnsupportedModelError(
            "no convolution is reached from the model's inputs",
            remedy="fxscale scales convolution kernels; pass a convolutional network",
        )
    interfaces: dict[str, LinearSite] = {}
    for linear in network.linears:
        if is_spatial(linear.dim):
            first = interfaces.setdefault(linear.weight, linear)
            _check_same_map(linear, _layout(first.dim) == _layout(linear.dim))
    return Sites(convolutions, tuple(interfaces.values()), network.linears)


def _gains_apart(convolutions: tuple[Convolution, ...]) -> tuple[Convolution, ...]:
    """A gain that several kernels share cannot be corrected for each of them: it is none."""
    gains = Counter(c.computed.gain for c in convolutions if c.computed)
    return tuple(
        replace(c, computed=replace(c.computed, gain=None))
        if c.computed and c.computed.gain and gains[c.computed.gain] > 1
        else c
        for c in convolutions
    )


def check_interfaces(sites: Sites, lengths: Lengths) -> None:
    """All calls of an interface must read maps of one size in the pre-train network, too."""
    first = {site.weight: site for site in sites.interfaces}
    for linear in sites.linears:
        if linear.weight in first:
            expected = pretrain_lengths(first[linear.weight].dim, lengths)
            _check_same_map(linear, pretrain_lengths(linear.dim, lengths) == expected)


def _layout(dim: Dim) -> list[tuple[int, bool]]:
    return [(axis.target, axis.spatial) for axis in dim]


def _check_same_map(linear: LinearSite, same: bool) -> None:
    if not same:
        raise refusal(
            linear.node,
            f"the linear layer {linear.name!r} reads two different feature maps",
            remedy="use one layer per feature map",
            module=linear.name,
        )


def _check_calls(convolution: Convolution) -> None:
    for call in convolution.calls[1:]:
        if call.kernel_size != convolution.first.kernel_size:
            raise UnsupportedModelError(
                f"kernels of {convolution.first.kernel_size} and {call.kernel_size} are computed "
                f"from the same parameter {convolution.weight!r}",
                node=call.node.name,
                module=call.name,
                remedy="use one parameter per kernel size",
            )
        covered = [axis is not None for axis in call.tied]
        if covered != [axis is not None for axis in convolution.first.tied]:
            raise refusal(
                call.node,
                "a convolution covers the whole map in one call and not in another",
                remedy="name the layer in keep, or use one layer per feature map",
                module=call.name,
            )
