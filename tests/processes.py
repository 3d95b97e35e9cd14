"""Several processes that train together, on this machine, with a limit on their time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch.distributed.nn.functional  # before a group exists, which its defaults would hold on to

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """For children: the checkout on their path, one thread each."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(count: int, *arguments: str) -> subprocess.Popen[str]:
    """Starts `torchrun --nproc-per-node count` on a program or on `-m module`; see `finish`."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={count}", *arguments),
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that all of them can be ended together
    )


def finish(process: subprocess.Popen[str], limit: float) -> tuple[int, str]:
    """Exit code and output; every process of it is dead afterwards, whatever happened."""
    try:
        output, _ = process.communicate(timeout=limit)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, output


def run_together(program: Path, count: int, *arguments: str, limit: float = 120) -> list[str]:
    """Runs `count` processes of a Python program as one gloo group; what each printed.

    Every process finds the usual variables for `torch.distributed.init_process_group`, and ends
    with `leave_group`. Fails, with all of them dead, if one fails or they are not done after
    `limit` seconds.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = environment() | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), *arguments],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    deadline = time.monotonic() + limit
    try:
        outputs = [p.communicate(timeout=max(1, deadline - time.monotonic()))[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def leave_group() -> None:
    """The end of a program of `run_together`, whose networks must have let go of the group.

    A gloo thread that is still about aborts the interpreter if it puts away its last tensor while
    that shuts down. It seldom does, so whether one is about is looked up.
    """
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    gloo = [name for name in threads if "gloo" in name]
    assert not gloo, f"something holds on to the group: threads {', '.join(gloo)}"
