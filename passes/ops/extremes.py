"""`max` and `min`: of all values, along a dimension (with indices), of two tensors."""

from __future__ import annotations

import operator

import torch

from fxscale.passes.axes import Annotation, Shape, is_spatial
from fxscale.passes.ops.join import broadcast
from fxscale.passes.ops.reduce import reduce_mean
from fxscale.passes.ops.registry import Call, handles


@handles(torch.max, ".max", torch.min, ".min", params="input dim keepdim other")
def extreme(call: Call) -> Annotation:
    """Cases: 1. of two tensors, `torch.max(a, b)`; 2. of everything; 3. values and indices."""
    for name in ("dim", "other"):
        if isinstance(call.annotation(name), Shape):
            return broadcast(call, ("input", name))
    if not isinstance(call.result, tuple):
        return Shape(())
    values = reduce_mean(call)
    if is_spatial(call.dims()[call.value("dim")]) and _indices_are_read(call):
        raise call.refuse(
            "returns indices into the feature map",
            "use the values alone, or register a handler for the module",
        )
    return (values, values)


def _indices_are_read(call: Call) -> bool:
    """Whether anything happens to the second item of the tuple, or to the tuple as a whole."""
    returned = call.annotator.network.returned
    items = [user for user in call.node.users if user.target in (operator.getitem, getattr)]
    indices = [item for item in items if item.args[1] not in (0, "values")]
    return (
        len(items) < len(call.node.users)
        or any(item.users for item in indices)
        or not returned.isdisjoint((call.node, *indices))
    )
