"""`PretrainNetwork`: the module that the compiler produces.

It is a `torch.fx.GraphModule` that keeps the target's whole module tree (unused parameters too)
and, where the target computes differently in train and in eval mode, one graph for each.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, Self

from torch import fx, nn

from fxscale.modes import EVAL, TRAIN, Modes
from fxscale.plan import ScalePlan
from fxscale.portable_graph import PortableGraph, from_portable, to_portable

# What fx.GraphModule and this class keep about themselves; everything else belongs to the model.
_OWN = frozenset(
    {
        "_graph",
        "_code",
        "_lineno_map",
        "_prologue_start",
        "_tracer_cls",
        "_tracer_extras",
        "_eval_graph",
        "_modes",
        "meta",
        "plan",
        "class_name",
        "shape_env",
        "_replace_hooks",
        "_create_node_hooks",
        "_erase_node_hooks",
        "_deepcopy_hooks",
    }
)


class PretrainNetwork(fx.GraphModule):
    """A pre-train network: the target with smaller kernels, for smaller images.

    Trains like any module and follows `.train()` and `.eval()` as the target does. Its state has
    the target's names. `plan` says what was changed; `fxscale.upscale_state` maps the weights back.
    """

    plan: ScalePlan

    def __init__(
        self,
        root: nn.Module,
        train_graph: fx.Graph,
        eval_graph: fx.Graph | None,
        plan: ScalePlan,
        modes: Modes,
    ) -> None:
        super().__init__(nn.Module(), fx.Graph(), class_name=plan.model)
        self.plan = plan
        self._modes = modes
        self._eval_graph = eval_graph
        for name, value in vars(root).items():
            if name not in _OWN:
                self.__dict__[name] = value
        self.graph = train_graph

    def recompile(self) -> Any:
        """Generate `forward` from the graph of each mode."""
        code = super().recompile()
        train = evaluation = type(self).forward
        eval_graph: fx.Graph | None = self.__dict__.get("_eval_graph")
        if eval_graph is not None:
            evaluation = _forward_of(self, eval_graph)
        modes: Modes = self.__dict__.get("_modes", Modes())
        if eval_graph is not None or any(modes.deciding.values()):
            by_mode = {TRAIN: train, EVAL: evaluation}

            @functools.wraps(train)  # keeps the signature
            def forward(self: PretrainNetwork, *args: Any, **kwargs: Any) -> Any:
                self._modes.check(self)
                return by_mode[self.training](self, *args, **kwargs)

            type(self).forward = forward  # fx makes a class per network
        return code

    def train(self, mode: bool = True) -> Self:
        """Set the mode as the target's own `train` does, which may leave some modules in another.

        That is what it did with the target's attributes at the time of `downscale`.
        """
        super().train(mode)
        self._modes.apply(self)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PretrainNetwork:
        # fx.GraphModule's own copy keeps only what its graph refers to.
        root = nn.Module()
        memo[id(self)] = clone = PretrainNetwork.__new__(PretrainNetwork)
        root.__dict__.update(copy.deepcopy(self._model_attributes(), memo))
        PretrainNetwork.__init__(
            clone,
            root,
            copy.deepcopy(self.graph),
            copy.deepcopy(self._eval_graph),
            self.plan,
            self._modes,
        )
        return clone

    def __reduce__(self) -> tuple[Any, ...]:
        eval_graph = None if self._eval_graph is None else to_portable(self._eval_graph)
        attributes = self._model_attributes()
        return _restore, (attributes, to_portable(self.graph), eval_graph, self.plan, self._modes)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def _model_attributes(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _OWN}


TAKEN_NAMES = (_OWN | set(dir(PretrainNetwork))) - set(dir(nn.Module))
"""Attributes that no layer or parameter of a network itself can be read by."""


def _forward_of(network: nn.Module, graph: fx.Graph) -> Callable[..., Any]:
    forward: Callable[..., Any] = type(fx.GraphModule(network, graph)).forward
    return forward


def _restore(
    attributes: dict[str, Any],
    train_graph: PortableGraph,
    eval_graph: PortableGraph | None,
    plan: ScalePlan,
    modes: Modes,
) -> PretrainNetwork:
    root = nn.Module()
    root.__dict__.update(attributes)
    return PretrainNetwork(
        root,
        from_portable(train_graph),
        None if eval_graph is None else from_portable(eval_graph),
        plan,
        modes,
    )
