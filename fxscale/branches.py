"""Branches that the target takes by its batch size, as an operator of the pre-train network."""

from __future__ import annotations

from fxscale.errors import UnsupportedModelError


def same_branch(condition: object, taken: bool, source: str | None) -> None:
    """Raise `UnsupportedModelError` where a condition is not what it was when it was compiled.

    `source` is the line of the model's code that asks.
    """
    if bool(condition) is not taken:
        raise UnsupportedModelError(
            f"forward decides by the batch size, and was compiled for a batch for which the "
            f"condition is {taken}",
            source=source,
            remedy="keep to batches of one kind (as drop_last=True does in a DataLoader), or take "
            "the decision out of forward",
        )
