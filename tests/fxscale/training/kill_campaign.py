"""Kills a training run again and again, and checks what is left each time. A program, not a test.

    python kill_campaign.py FOLDER KILLS SEED

Children are forked from a process that has imported everything, so that most of a child's life is
training. Every child resumes the run and is killed (`SIGKILL`)

1. after a random time, or
2. in the middle of writing a checkpoint, half of its bytes written, or
3. inside a transition, or
4. between the two names of a best checkpoint.

After each kill the last checkpoint must load and be no older than any seen before; when a child
gets through, the weights and epochs must be those of a run that nobody killed, bit for bit, and
another run begins. Prints a JSON object of counts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fxscale.training import change, checkpoint, store
from fxscale.training.checkpoint import load_checkpoint
from fxscale.training.models import networks
from fxscale.training.run import train
from tests.fxscale.training.small_runs import settings, source, tiny

LIMIT = 120.0
"""Seconds after which a child that does not end is a failure."""
CHANGES: dict[str, Any] = {
    "checkpoint_every": "2 steps",
    "average": 0.5,
    "epochs": 8,
    "milestones": (6,),
    "resize_at": "4",
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(nth: int) -> None:
    real, calls = checkpoint.save_file, Counter[str]()

    def save_half(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        calls["save"] += 1
        if calls["save"] < nth:
            real(tensors, path, metadata=metadata)
            return
        content = save(tensors, metadata=metadata)
        path.write_bytes(content[: len(content) // 2])
        die()

    checkpoint.save_file = save_half


def die_in_transition(where: str) -> None:
    setattr(change, where, lambda *arguments, **options: die())


def die_between_names() -> None:
    store.copy_checkpoint = lambda *arguments: die()


def child(folder: Path, sabotage: Callable[[], None] | None) -> int:
    """Forks a child that resumes the run in `folder`; its process number."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        if sabotage is not None:
            sabotage()
        result = train(
            settings(**CHANGES),
            folder,
            resume=True,
            source=source(),
            factory=tiny,
            accelerator="cpu",
        )
        epochs = [replace(e, seconds=0.0, images_per_second=0.0) for e in result.epochs]
        (folder / "epochs.txt").write_text(repr(epochs))
        status = 0
    finally:
        os._exit(status)


def wait(number: int, until: float | None) -> int:
    """Kills the child at `until`, if it lives so long; its status as `os.waitpid` gives it."""
    start = time.monotonic()
    while True:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return status
        if until is not None and time.monotonic() >= until:
            os.kill(number, signal.SIGKILL)
            return os.waitpid(number, 0)[1]
        if time.monotonic() - start > LIMIT:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
            raise SystemExit(f"a child did not end within {LIMIT} seconds")
        time.sleep(0.002)


def outcome(folder: Path) -> tuple[Mapping[str, Tensor], str]:
    return load_file(folder / "weights.safetensors"), (folder / "epochs.txt").read_text()


def steps_saved(folder: Path) -> int:
    """Steps of the last checkpoint, which must be whole; 0 if there is none."""
    path = folder / "checkpoints" / "last.safetensors"
    if not path.exists():
        return 0
    return int(load_checkpoint(path).document["progress"]["steps"])


def main(folder: Path, kills: int, seed: int) -> dict[str, int]:
    torch.set_num_threads(1)
    # All that children would import themselves, else most of them die importing.
    for module in ("lightning_fabric", "torchvision.transforms.v2", "torch._dynamo"):
        import_module(module)
    networks(settings(**CHANGES), tiny, 2)
    chance = random.Random(seed)
    begun = time.monotonic()
    assert os.waitstatus_to_exitcode(wait(child(folder / "whole", None), None)) == 0
    duration = time.monotonic() - begun
    weights, epochs = outcome(folder / "whole")

    counts: Counter[str] = Counter()
    run, saved = folder / "run0", 0
    while counts["killed"] < kills or counts["finished"] == 0:
        kinds: dict[str, Callable[[], None] | None] = {
            "at a random moment": None,
            "while writing": partial(die_while_writing, chance.randint(1, 4)),
            "in the transition": partial(die_in_transition, "transition"),
            "re-estimating BatchNorm": partial(die_in_transition, "reestimate_batchnorm"),
            "between two names": die_between_names,
        }
        kind = chance.choice([*kinds, *["at a random moment"] * 4])
        if counts["killed"] >= kills:
            kind, until = "none", None  # the last run may end
        else:
            until = time.monotonic() + chance.uniform(0, 1.2 * duration)
        number = child(run, kinds.get(kind))
        status = wait(number, until if kind == "at a random moment" else None)
        now = steps_saved(run)
        print(f"{kind}: {status}, {saved} -> {now} steps", file=sys.stderr, flush=True)
        assert now >= saved, f"{kind}: a checkpoint of {saved} steps is lost, {now} are left"
        saved = now
        if os.WIFSIGNALED(status):
            counts["killed"] += 1
            counts[kind] += 1
            continue
        assert os.waitstatus_to_exitcode(status) == 0, f"{kind}: a child failed"
        found, found_epochs = outcome(run)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], weights[key]) for key in weights), "other weights"
        assert found_epochs == epochs, "other results"
        counts["finished"] += 1
        run, saved = folder / f"run{counts['finished']}", 0
    return dict(counts)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
