"""Checkpoints: one safetensors file each, tensors and a JSON document, no pickle anywhere.

A file appears whole or not at all (written beside its name, flushed to the disk, renamed) and holds
a SHA-256 of its contents, so that damage is noticed when it is loaded. Reading one executes nothing
that it contains.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fxscale.errors import CheckpointError
from fxscale.files import written_whole
from fxscale.weights import read_tensors

VERSION = 2
_DOCUMENT = "fxscale_checkpoint"
_DIGEST = "sha256"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and everything else as JSON holds it."""

    tensors: Mapping[str, Tensor]
    document: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        start = prefix + "."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def digest(tensors: Mapping[str, Tensor], document: str = "") -> str:
    """SHA-256, in hex, over names, dtypes, shapes and contents."""
    result = hashlib.sha256(document.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        result.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint. Raises `CheckpointError`; whatever was at `path` is then still there."""
    document = json.dumps({**checkpoint.document, "version": VERSION}, allow_nan=True)
    # Copies, each in memory of its own: all that safetensors stores.
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in checkpoint.tensors.items()
    }
    metadata = {_DOCUMENT: document, _DIGEST: digest(tensors, document)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            save_file(tensors, partial, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(_cannot_write(path, tensors, error)) from error


def copy_checkpoint(source: Path, path: Path) -> None:
    """`source` under another name as well, without writing it twice where links can be made."""
    try:
        with written_whole(path) as partial:
            try:
                os.link(source, partial)
            except OSError:
                shutil.copyfile(source, partial)
    except OSError as error:
        raise CheckpointError(_cannot_write(path, {}, error)) from error


def _cannot_write(path: Path, tensors: Mapping[str, Tensor], error: Exception) -> str:
    size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
    text = f"cannot write the checkpoint {path} ({size:.1f} MB): {error}"
    if path.parent.is_dir():
        text += f". {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free there"
    kept = sorted(str(file) for file in path.parent.glob("*.safetensors"))
    if kept:
        text += f". What was there before is whole: {', '.join(kept)}. Make room, then --resume"
    return text


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads and verifies a checkpoint, on the CPU.

    **Raises:** `CheckpointError` where the file is damaged, no checkpoint, or of another version;
    `FileNotFoundError`, `PermissionError` as `open` does.
    """
    try:
        tensors, metadata = read_tensors(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged or no checkpoint: {error}. "
            + _others(path)
        ) from error
    if _DOCUMENT not in metadata:
        raise CheckpointError(f"{path} holds tensors, but is no checkpoint. " + _others(path))
    text = metadata[_DOCUMENT]
    if digest(tensors, text) != metadata.get(_DIGEST):
        raise CheckpointError(
            f"{path} is damaged: its contents do not have the checksum that was written with them. "
            + _others(path)
        )
    document = json.loads(text)
    if document["version"] != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {document['version']}, expected {VERSION}: it was "
            f"written by another version of fxscale"
        )
    return Checkpoint(tensors, document)


def _others(path: Path) -> str:
    others = sorted(p.name for p in path.parent.glob("*.safetensors") if p != path)
    if not others:
        return "There is no other checkpoint: remove it to start anew"
    return f"Put a copy of another one in its place: {', '.join(others)}"


def flattened(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state dict as tensors by name and a document that JSON can hold."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            elif value is not None:
                rest[f"{index}.{name}"] = value
    return tensors, {"rest": rest, "groups": state["param_groups"]}


def restored(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flattened`: what `Optimizer.load_state_dict` takes."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **document["rest"]}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = [
        {k: tuple(v) if k == "betas" else v for k, v in group.items()}
        for group in document["groups"]
    ]
    return {"state": state, "param_groups": groups}
