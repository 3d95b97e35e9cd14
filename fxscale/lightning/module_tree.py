"""Looking for networks inside other modules, and exchanging them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.optim.swa_utils import AveragedModel


def outermost(
    root: nn.Module, wanted: Callable[[nn.Module], bool], *, averages: bool = True
) -> list[nn.Module]:
    """The modules below `root` that are `wanted`, each once; nothing is looked for inside them.

    `averages`: whether to look inside `AveragedModel`, too.
    """
    found: dict[nn.Module, None] = {}
    seen: set[nn.Module] = set()

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if wanted(child):
                found[child] = None
            elif child not in seen and (averages or not isinstance(child, AveragedModel)):
                seen.add(child)
                visit(child)

    visit(root)
    return list(found)


def replace_child(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts `new` in every place below `root` that `old` has, under whatever names."""
    inside = set(old.modules())
    for parent in [module for module in root.modules() if module not in inside]:
        for name in [name for name, child in parent._modules.items() if child is old]:
            setattr(parent, name, new)
