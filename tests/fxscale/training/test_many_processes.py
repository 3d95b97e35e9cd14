"""Runs of several processes, as `torchrun` starts them on one machine, against one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fxscale.training.observers import TrainingObserver
from fxscale.training.run import train
from tests.fxscale.training.small_runs import Tiny, settings, source
from tests.processes import finish, torchrun

PROGRAM = """
import json, sys
import torch
from tests.fxscale.training.test_many_processes import train_here

torch.set_num_threads(1)
train_here(sys.argv[1], json.loads(sys.argv[2]))
"""


class Steps(TrainingObserver):
    """Counts aloud."""

    count = 0

    def step(self) -> None:
        self.count += 1
        print(f"step {self.count}", flush=True)


def train_here(output: str | Path, options: dict[str, Any]) -> None:
    """A run in this process, or this process's part of one."""
    changes = options | {k: tuple(options[k]) for k in ("milestones",) if k in options}
    build = partial(Tiny, batchnorm=changes.pop("batchnorm"), dropout=0.0)
    images = source(**changes.pop("images", {}))
    train(
        settings(**changes, timeout=100.0, log_every=1),
        output,
        resume=True,
        source=images,
        factory=build,
        observers=[Steps()],
        accelerator="cpu",
    )


def start(folder: Path, count: int, **options: Any) -> subprocess.Popen[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    return torchrun(count, str(program), str(folder / "run"), json.dumps(options))


def run(folder: Path, count: int, **options: Any) -> list[dict[str, Any]]:
    """The metrics of a run that ends well within three minutes."""
    folder.mkdir(exist_ok=True)
    if count == 1:
        train_here(folder / "run", options)
    else:
        code, output = finish(start(folder, count, **options), 180)
        assert code == 0, output
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def of(metrics: list[dict[str, Any]], event: str, field: str) -> list[Any]:
    return [line[field] for line in metrics if line["event"] == event]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_losses_are_those_of_one_process(count: int, tmp_path: Path) -> None:
    # 71 images to train on, 31 to test on: neither divides by anything.
    options: dict[str, Any] = {"images": {"train": 71, "test": 31}, "average": 0.5, "epochs": 3}
    options |= {"milestones": [2], "resize_at": "1", "batchnorm": False}
    alone = run(tmp_path / "alone", 1, **options)
    together = run(tmp_path / "together", count, **options)

    assert len(of(alone, "step", "loss")) == 12
    for event, field in (("step", "loss"), ("epoch", "test_loss"), ("epoch", "accuracy")):
        assert of(together, event, field) == pytest.approx(of(alone, event, field), rel=2e-4), field
    assert of(together, "transition", "steps") == of(alone, "transition", "steps") == [4]


@pytest.mark.slow
def test_batchnorm_is_that_of_as_many_accumulated_batches(tmp_path: Path) -> None:
    """BatchNorm sees micro-batches of 8 images in both runs. That all processes enter the target
    with one state hash is checked in the transition itself, which fails if they do not."""
    options: dict[str, Any] = {"epochs": 2, "milestones": [], "resize_at": "1", "batchnorm": True}
    alone = run(tmp_path / "alone", 1, accumulate=2, **options)
    together = run(tmp_path / "together", 2, **options)

    for event, field in (("step", "loss"), ("transition", "after")):
        assert of(together, event, field) == pytest.approx(of(alone, event, field), rel=2e-4), field


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_resuming_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batchnorm": False, "checkpoint_every": "2 steps", "epochs": 12}
    options |= {"milestones": [9], "resize_at": "6"}
    process = start(tmp_path, 2, **options)
    killed = 0.0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 10"):
                children = f"/proc/{process.pid}/task/{process.pid}/children"
                victim = int(Path(children).read_text().split()[-1])
                os.kill(victim, signal.SIGKILL)
                killed = time.monotonic()
                break
        assert killed, "the run ended before its tenth step"
    finally:
        code, output = finish(process, 90)
    assert code != 0
    assert time.monotonic() - killed < 60
    assert "SIGKILL" in output or "Signal 9" in output

    whole = run(tmp_path / "whole", 2, **options)
    resumed = run(tmp_path, 2, **options)
    assert "resumed" in [line["event"] for line in resumed]
    losses = of(resumed, "step", "loss"), of(whole, "step", "loss")
    assert len(losses[0]) == len(losses[1]) == 48
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
