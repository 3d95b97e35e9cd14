"""A short, stable name for "the same parameters": what ties a plan to its target network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol


class HasShape(Protocol):
    """Anything that knows its shape: a tensor, a fake tensor, an array."""

    @property
    def shape(self) -> Iterable[int]: ...


def fingerprint(state: Mapping[str, HasShape]) -> str:
    """SHA-256, in hex, over the sorted names and shapes of a state dict.

    Values and dtypes do not count: a checkpoint in half precision, or of another epoch, belongs to
    the same target network. Neither does the order of the entries.

    `state` is what `module.state_dict()` returns, or any mapping from names to things with a
    `.shape`.
    """
    return fingerprint_of_shapes({key: tuple(value.shape) for key, value in state.items()})


def fingerprint_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """`fingerprint`, from the shapes alone (a plan's state maps carry nothing else)."""
    digest = hashlib.sha256()
    for name in sorted(shapes):
        # The length in front keeps any two different mappings from sharing a byte string, whatever
        # characters the names hold.
        encoded = name.encode()
        digest.update(f"{len(encoded)}:".encode() + encoded)
        digest.update(("x".join(str(int(n)) for n in shapes[name]) + ";").encode())
    return digest.hexdigest()
