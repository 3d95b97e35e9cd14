from __future__ import annotations

import errno
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from fxscale.errors import CheckpointError
from fxscale.training import checkpoint as module
from fxscale.training.checkpoint import (
    Checkpoint,
    copy_checkpoint,
    digest,
    flattened,
    load_checkpoint,
    restored,
    save_checkpoint,
)
from fxscale.training.store import Store
from tests.fxscale.training.small_runs import settings
from tests.processes import environment

TENSORS = {
    "network.weight": torch.arange(12.0).view(3, 4).to(torch.bfloat16),
    "network.count": torch.tensor(7),
    "optimizer.0.momentum": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "optimizer.1.empty": torch.empty(0),
}
DOCUMENT: dict[str, Any] = {"rate": 0.1 + 0.2, "loss": 1 / 3, "names": ["a", "ä"], "nothing": None}


def saved(folder: Path) -> Path:
    path = folder / "last.safetensors"
    save_checkpoint(path, Checkpoint(TENSORS, DOCUMENT))
    return path


def test_round_trip(tmp_path: Path) -> None:
    found = load_checkpoint(saved(tmp_path / "new"))

    assert found.tensors.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert found.tensors[key].dtype == value.dtype
        assert torch.equal(found.tensors[key], value)
    assert {k: found.document[k] for k in DOCUMENT} == DOCUMENT
    assert found.part("network").keys() == {"weight", "count"}


def test_every_changed_bit_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    path.write_bytes(whole)
    load_checkpoint(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 41):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"bytes\) is damaged or no checkpoint"):
            load_checkpoint(path)


def test_messages(tmp_path: Path) -> None:
    path = saved(tmp_path)
    copy_checkpoint(path, tmp_path / "best.safetensors")
    path.write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"copy of another one in its place: best\.safetens"):
        load_checkpoint(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="holds tensors, but is no checkpoint"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "VERSION", 99)
        path = saved(tmp_path)
    with pytest.raises(CheckpointError, match="of version 99, expected 2"):
        load_checkpoint(path)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_nothing_in_a_strangers_file_is_executed(tmp_path: Path) -> None:
    path, mark = tmp_path / "last.safetensors", tmp_path / "executed"
    torch.save({"network": Trap(mark)}, tmp_path / "zip")
    for content in ((tmp_path / "zip").read_bytes(), pickle.dumps(Trap(mark))):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
            load_checkpoint(path)
        assert not mark.exists()
    pickle.loads(content)  # the trap does work
    assert mark.exists()


@pytest.mark.parametrize("links", [True, False])
def test_copies_outlive_what_they_were_made_of(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path, copy = saved(tmp_path), tmp_path / "copy.safetensors"
    copy_checkpoint(path, copy)
    save_checkpoint(path, Checkpoint({}, {"other": 1}))
    assert load_checkpoint(copy).tensors.keys() == TENSORS.keys()
    assert load_checkpoint(path).document["other"] == 1


FULL = """
import resource, sys, torch
from pathlib import Path
from fxscale.errors import CheckpointError
from fxscale.training.checkpoint import Checkpoint, save_checkpoint
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(path, Checkpoint({"network.w": torch.ones(100_000)}, {}))
except CheckpointError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """The system itself refuses: a file may not grow beyond 50 kB in that process."""
    assert resource.RLIMIT_FSIZE
    path = saved(tmp_path)
    before = path.read_bytes()

    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert f"cannot write the checkpoint {path} (0.4 MB)" in done.stdout
    assert f"What was there before is whole: {path}" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)

    def full(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "save_file", full)
    words = r"No space left on device.* MB are free there.*before is whole: .*last.*--resume"
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(path, Checkpoint(TENSORS, {"new": True}))
    assert "new" not in load_checkpoint(path).document
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_digests_tell_names_shapes_and_types_apart() -> None:
    one = torch.ones(2, 3)
    variants = [
        {"a": one},
        {"b": one},
        {"a": one.view(3, 2)},
        {"a": one.view(torch.int32)},
        {"a": one, "b": one},
        {"a": 2 * one},
    ]
    assert len({digest(v) for v in variants}) == len(variants)
    assert digest({"a": one, "b": one}) == digest({"b": one.clone(), "a": one.clone()})


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: SGD(p, lr=0.1),
        lambda p: AdamW(p, lr=0.1, betas=(0.8, 0.99), amsgrad=True),
    ],
)
def test_optimizers(make: Any, tmp_path: Path) -> None:
    def steps(network: nn.Module, optimizer: Optimizer) -> None:
        for _ in range(3):
            for parameter in network.parameters():
                parameter.grad = torch.full_like(parameter, 0.3)
            optimizer.step()

    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    old, new = make(first.parameters()), make(second.parameters())
    steps(first, old)
    tensors, document = flattened(old.state_dict())
    save_checkpoint(tmp_path / "x", Checkpoint(tensors, document))
    found = load_checkpoint(tmp_path / "x")
    new.load_state_dict(restored(found.tensors, found.document))
    second.load_state_dict(first.state_dict())
    steps(first, old)
    steps(second, new)

    assert torch.equal(first.weight, second.weight)
    assert old.state_dict()["param_groups"] == new.state_dict()["param_groups"]


def test_a_checkpoint_of_a_run_with_a_setting_that_is_no_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    document = {"settings": {**settings().to_dict(), "progressive": True}, "classes": ["0", "1"]}
    store.save(Checkpoint({"weight": torch.ones(2)}, document), best=False)
    with pytest.raises(CheckpointError, match="other settings: progressive True, not None"):
        store.load(settings(), ("0", "1"), {})
