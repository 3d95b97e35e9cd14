"""Seeing through what training code wraps around a network, and around its names."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.distributed import ProcessGroup

_INNER = ("_orig_mod", "_original_module")
"""Where `torch.compile` and Lightning Fabric keep the network that they wrap."""


def unwrap(module: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, `DistributedDataParallel`, `DataParallel` and Fabric."""
    for name in _INNER:
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module):
            return unwrap(inner)
    if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrap(module.module)
    return module


def process_group(module: nn.Module) -> ProcessGroup | None:
    """The processes that train this network by `DistributedDataParallel`; `None` if it does not."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        group: ProcessGroup = module.process_group
        return group
    for name in ("_forward_module", "_orig_mod"):  # Lightning Fabric, torch.compile
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module):
            return process_group(inner)
    return None


def match_keys(keys: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Each of `keys` -> its name without the prefixes of wrappers, `module.` and `_orig_mod.`.

    A name that is `known` as it stands is left alone, so that a network may well have a child
    called `module`.
    """
    names = frozenset(known)
    return {key: _match_key(key, names) for key in keys}


def _match_key(key: str, known: frozenset[str]) -> str:
    name = key
    while name not in known:
        head, _, tail = name.partition(".")
        if head not in ("module", "_orig_mod") or not tail:
            # torch.compile of a child leaves its mark in the middle of a name.
            return ".".join(part for part in name.split(".") if part != "_orig_mod")
        name = tail
    return name
