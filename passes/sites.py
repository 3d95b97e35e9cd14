"""Pass 3, find sites: gather the calls of each convolution, and the fully connected interfaces."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import (
    AnnotatedNetwork,
    Axis,
    ConvSite,
    Dim,
    Lengths,
    LinearSite,
    is_spatial,
    pretrain_lengths,
)


@dataclass(frozen=True)
class Convolution:
    """One kernel of the target with all of its calls; `learnable` is false for fixed filters."""

    name: str
    weight: str
    calls: tuple[ConvSite, ...]
    learnable: bool

    @property
    def first(self) -> ConvSite:
        return self.calls[0]

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.first.kernel_size

    @property
    def stride(self) -> tuple[int, ...]:
        return self.first.stride

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
        Convolution(group[0].name, weight, tuple(group), weight in parameters)
        for weight, group in calls.items()
    )
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
        raise UnsupportedModelError(
            f"the linear layer {linear.name!r} reads two different feature maps",
            node=linear.node.name,
            module=linear.name,
            remedy="use one layer per feature map",
        )


def _check_calls(convolution: Convolution) -> None:
    for call in convolution.calls[1:]:
        covered = [axis is not None for axis in call.tied]
        if covered != [axis is not None for axis in convolution.first.tied]:
            raise UnsupportedModelError(
                "a convolution covers the whole map in one call and not in another",
                node=call.node.name,
                module=call.name,
                remedy="name the layer in keep, or use one layer per feature map",
            )
