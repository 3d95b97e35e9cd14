"""Several processes that train together, on this machine, with a limit on their time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """For children: the checkout on their path, one thread each."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_together(program: Path, count: int, *arguments: str, limit: float = 120) -> list[str]:
    """Runs `count` processes of a Python program as one gloo group; what each printed.

    Every process finds the usual variables for `torch.distributed.init_process_group`. Fails, with
    all of them dead, if one fails or they are not done after `limit` seconds.
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
