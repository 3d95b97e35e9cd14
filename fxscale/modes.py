"""Train and eval mode of the modules of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from fxscale.errors import UnsupportedModelError

TRAIN, EVAL = True, False


@dataclass(frozen=True)
class Modes:
    """What the two graphs of a network take for granted about the modes of its modules.

    A graph holds the code of all modules as it ran in one mode of the whole network. Layers of
    `torch.nn` look at their own mode when they are called, and may have another one.

    - `own[mode]`: by path, the modules that the target's own `train(mode)` puts into another mode
      than the network's, such as a backbone that stays frozen.
    - `deciding[mode]`: the paths of the modules that must be in the mode in which that graph was
      made, because their code decides something by it.
    """

    own: Mapping[bool, Mapping[str, bool]] = field(default_factory=lambda: {TRAIN: {}, EVAL: {}})
    deciding: Mapping[bool, tuple[str, ...]] = field(default_factory=lambda: {TRAIN: (), EVAL: ()})

    def apply(self, network: nn.Module) -> None:
        """Put the exceptions of the network's present mode into theirs."""
        for path, training in self.own[network.training].items():
            network.get_submodule(path).training = training

    def check(self, network: nn.Module) -> None:
        """Raise `UnsupportedModelError` where a deciding module is not in the mode of its graph."""
        own = self.own[network.training]
        for path in self.deciding[network.training]:
            module = network.get_submodule(path)
            traced = own.get(path, network.training)
            if module.training != traced:
                raise UnsupportedModelError(
                    f"{path!r} is in {_word(module.training)} mode, and the graph for the network "
                    f"in {_word(network.training)} mode was made with it in {_word(traced)} mode: "
                    f"what {type(module).__name__} decides by its own mode cannot change any more",
                    module=path,
                    remedy="change the mode of the network as a whole, or of the layers that are "
                    "meant (such as BatchNorm) alone",
                )


def _word(training: bool) -> str:
    return "train" if training else "eval"
