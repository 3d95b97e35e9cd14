"""Deformable convolutions of torchvision: the kernel keeps its taps, which the offsets count.

The offsets are a map of the size of the output, in pixels of the input map, at every size.
"""

from __future__ import annotations

from typing import Any

from fxscale.passes.axes import Annotation, Axis, Operand, Shape, is_spatial
from fxscale.passes.ops.registry import Call, handles


@handles(
    "torchvision.deform_conv2d",
    params="input weight offset mask bias stride_h stride_w pad_h pad_w dil_h dil_w groups "
    "offset_groups use_mask",
)
def deformable(call: Call) -> Annotation:
    dims = call.dims()
    kernel_size = tuple(call.value("weight").shape[2:])
    maps: list[Any] = ["offset", "mask"] if call.value("use_mask") else ["offset"]
    out = []
    for position, name in enumerate("hw"):
        dim = dims[2 + position]
        if len(dim) != 1 or not is_spatial(dim):
            raise call.refuse("runs over a dimension that is not one spatial axis", "use maps")
        padding = call.value(f"pad_{name}")
        axis = call.annotator.window(
            node=call.node,
            source=dim[0],
            position=position,
            kernel_size=kernel_size[position],
            stride=call.value(f"stride_{name}"),
            padding=(padding, padding),
            dilation=call.value(f"dil_{name}"),
        )
        operands = [
            Operand(call.node, None, axis),
            *(Operand(call.raw(m), 2 + position, call.dims(m)[2 + position][0]) for m in maps),
        ]
        out.append((call.annotator.join(call.node, operands),))
    return Shape((dims[0], (Axis(call.result.shape[1], spatial=False),), *out))
