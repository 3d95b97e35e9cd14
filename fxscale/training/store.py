"""The folder of a run: its last and its best checkpoint, its metrics, the weights at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from fxscale.errors import CheckpointError
from fxscale.plan_layout import layout_of
from fxscale.training.checkpoint import (
    Checkpoint,
    copy_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from fxscale.training.settings import Settings


class Store:
    """Checkpoints of one run.

    At every moment `last` is a whole checkpoint, once there is one: it is replaced by renaming.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "checkpoints" / "last.safetensors"
        self.best = folder / "checkpoints" / "best.safetensors"
        self.metrics = folder / "metrics.jsonl"
        self.tensorboard = folder / "tensorboard"
        self.weights = folder / "weights.safetensors"

    def prepare(self) -> None:
        """Makes the folders and removes what a process that died while writing left behind."""
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot write to {self.folder}: {error.strerror}. Give a folder"
            ) from error
        for partial in self.last.parent.glob(".*.partial"):
            partial.unlink(missing_ok=True)

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Replaces the last checkpoint, and the best one, too, if this is it."""
        if not best:
            save_checkpoint(self.last, checkpoint)
            return
        # The best first: a crash in between leaves a `last` from which it is reached again.
        save_checkpoint(self.best, checkpoint)
        copy_checkpoint(self.best, self.last)

    def load(
        self, settings: Settings, classes: tuple[str, ...], networks: Mapping[int, nn.Module]
    ) -> Checkpoint | None:
        """The last checkpoint, `None` if there is none yet; `networks` by phase.

        Raises `CheckpointError` where it is damaged, of a run with other settings or classes, or of
        a pre-train network that computes something else with the same weights.
        """
        try:
            checkpoint = load_checkpoint(self.last)
        except FileNotFoundError:
            return None
        found = checkpoint.document["settings"]
        differing = settings.differing(found)
        if differing:
            told = ", ".join(
                f"{name} {found.get(name)!r}, not {settings.to_dict().get(name)!r}"
                for name in differing[:5]
            )
            raise CheckpointError(
                f"{self.last} is of a run with other settings: {told}. Resume with those, or give "
                f"another --output"
            )
        if tuple(checkpoint.document["classes"]) != classes:
            raise CheckpointError(
                f"{self.last} is of a run on other classes: expected {len(classes)}, found "
                f"{len(checkpoint.document['classes'])}. Give the data of that run"
            )
        if checkpoint.document["layout"] != layout_of(networks[checkpoint.document["phase"]]):
            raise CheckpointError(
                f"{self.last} is of a pre-train network with other paddings or map sizes than the "
                f"one compiled now, as another version of fxscale makes it. Resume with the "
                f"version that began the run, or give another --output"
            )
        return checkpoint

    def refuse_overwriting(self) -> None:
        """Raises `CheckpointError` where a run has been here."""
        if self.last.exists():
            raise CheckpointError(
                f"{self.folder} holds a run already: go on with it (--resume), or give another "
                f"--output"
            )
