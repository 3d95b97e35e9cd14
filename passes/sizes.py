"""The pre-train input size, where the user names none (section 3.2.1).

The paper takes a smaller integer length whose ratio to the target's approximates the first layer's
factor s: 231 -> 147 is 11/7, 224 -> 160 is 7/5. Where the target size is a multiple of the
network's accumulated stride, the nearest multiple of that stride is taken if it is close enough,
so that all feature maps divide as the target's do; however far, where the target returns a map of
its images' size, which is compared with labels of that size. A network that takes its maps apart
(windows, patches) gets the nearest size at which they all divide.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from fxscale.errors import SizeError
from fxscale.passes.axes import AnnotatedNetwork, Axis, Split
from fxscale.passes.grids import Grid, target_grids
from fxscale.passes.kernels import paper_kernel
from fxscale.passes.partition import dividing_sizes
from fxscale.passes.sites import Sites
from fxscale.plan import Size

NEAR = 0.08
"""How far, as a share, a multiple of the accumulated stride may lie from the paper's size."""


def choose_input_size(network: AnnotatedNetwork, sites: Sites, target_size: Size) -> Size:
    """The paper's input size for this network, one length per spatial axis."""
    factor = first_factor(sites)
    grids = target_grids(network)
    strides = {grid.step for grid in grids.values()}
    stride = round(max(strides, default=1))
    returned = {axis.target for axis in network.outputs}
    return tuple(
        _dividing(network, grids, length, factor)
        or _approximate(length, factor, stride, inf if length in returned else NEAR)
        for length in target_size
    )


def first_factor(sites: Sites) -> float:
    """s = k / k' of the first convolution that Table 1 makes smaller."""
    for convolution in sites.convolutions:
        for position, k in enumerate(convolution.kernel_size):
            small = max(paper_kernel(k), min(k, convolution.stride[position]), min(k, 2))
            if small < k and convolution.scales(position) and not convolution.tied(position):
                return k / small
    raise SizeError(
        "no kernel of this model gets smaller by Table 1, so the paper's rule suggests no input "
        "size; pass input_size"
    )


def _dividing(
    network: AnnotatedNetwork, grids: Mapping[Axis, Grid], length: int, factor: float
) -> int | None:
    """The size nearest to the paper's at which all windows and patches divide as in the target."""
    if not any(isinstance(event, Split) for event in network.events):
        return None
    sizes = dividing_sizes(network.events, grids, length)
    return min(sizes, key=lambda size: abs(size - length / factor), default=None)


def _approximate(length: int, factor: float, stride: int, near: float) -> int:
    exact = length / factor
    if stride > 1 and length % stride == 0:
        multiple = stride * max(1, round(exact / stride))
        if abs(multiple - exact) <= near * exact and multiple < length:
            return multiple
    return max(1, round(exact))
