"""Pass 3, find sites: gather the calls of each convolution, and the fully connected interfaces."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fxscale.errors import UnsupportedModelError
from fxscale.passes.axes import AnnotatedNetwork, Axis, ConvSite, LinearSite, is_spatial


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

    def tied(self, position: int) -> Axis | None:
        """The axis that the kernel covers whole, if it does."""
        return self.first.tied[position]


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
        if not is_spatial(linear.dim):
            continue
        known = interfaces.setdefault(linear.weight, linear)
        if known.dim != linear.dim:
            raise UnsupportedModelError(
                f"the linear layer {linear.name!r} reads two different feature maps",
                node=linear.node.name,
                module=linear.name,
                remedy="use one layer per feature map",
            )
    return Sites(convolutions, tuple(interfaces.values()), network.linears)


def _check_calls(convolution: Convolution) -> None:
    for call in convolution.calls[1:]:
        if call.tied != convolution.first.tied:
            raise UnsupportedModelError(
                "a convolution covers the whole map in one call and not in another",
                node=call.node.name,
                module=call.name,
                remedy="name the layer in keep, or use one layer per feature map",
            )
