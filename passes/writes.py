"""What `forward` writes into tensors that it has made itself.

An annotation is made once, where a tensor comes up, and a write does not change it. Two kinds of
writes would therefore be lost on the compiler, and are refused:

1. a feature map is written into a tensor that was made from sizes (`torch.zeros(n, c, h, w)`) and
   knows no axes, and the tensor, or one that shares its memory, is read afterwards;
2. a constant of the code (`torch.zeros(2, 8)`) is written into. `forward` makes it anew in every
   call; in the graph it is there once, and the next call would go on from the last one's.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from torch import fx

from fxscale.passes.annotations import carries_size
from fxscale.passes.in_place import changes_in_place, sharing
from fxscale.passes.origins import Origin, holds_tensor
from fxscale.passes.refusal import refusal

if TYPE_CHECKING:
    from fxscale.passes.annotate import Annotator

_REMEDY = (
    "make the tensor of a feature map, with torch.zeros_like(x) or x.new_zeros(...), or compute "
    "the parts and concatenate them"
)
_ASSIGNMENTS = (operator.setitem, "__setitem__", "fill_", "zero_", "copy_")
"""Writes after which nothing is left of what was there before."""


def refuse_lost_writes(annotator: Annotator, returned: frozenset[fx.Node]) -> None:
    """Raise `UnsupportedModelError` at the first write of either kind; the walk is over."""
    annotations, origins = annotator.annotations, annotator.origins
    place = {node: index for index, node in enumerate(annotations)}
    for node in filter(changes_in_place, annotations):
        written = node.kwargs.get("out", node.args[0] if node.args else None)
        if not isinstance(written, fx.Node) or not holds_tensor(written):
            continue
        others = [source for source in node.all_input_nodes if source is not written]
        images = [other for other in others if origins[other] is Origin.IMAGE]
        shared = list(sharing(written))
        if shared[-1].op == "get_attr" and not annotator.is_state(shared[-1]):
            if images or node.target not in _ASSIGNMENTS:
                raise refusal(
                    node,
                    f"{node.name!r} changes a constant of the code, and with it the next call",
                    remedy=_REMEDY,
                )
            continue
        if carries_size(annotations[written]) or not any(
            carries_size(annotations[i]) for i in images
        ):
            continue
        users = {user for tensor in shared for user in tensor.users}
        if any(place[user] > place[node] for user in users) or not returned.isdisjoint(shared):
            raise refusal(
                node,
                f"{node.name!r} writes a feature map into a tensor that was made from sizes",
                remedy=_REMEDY,
            )
