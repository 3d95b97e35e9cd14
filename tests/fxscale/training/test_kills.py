"""Runs that are killed go on as if nothing had happened: `kill_campaign` tells how."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, environment


def campaign(folder: Path, kills: int, *, seed: int, limit: float) -> dict[str, int]:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests/fxscale/training/kill_campaign.py"),
            str(folder),
            str(kills),
            str(seed),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=limit,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


@pytest.mark.slow
def test_killed_runs_go_on(tmp_path: Path) -> None:
    counts = campaign(tmp_path, 6, seed=1, limit=240)
    assert counts["killed"] == 6
    assert counts["finished"] >= 1


@pytest.mark.nightly
def test_fifty_kills(tmp_path: Path) -> None:
    counts = campaign(tmp_path, 60, seed=2, limit=1800)
    assert counts["killed"] == 60
    for kind in ("at a random moment", "while writing", "in the transition", "between two names"):
        assert counts[kind] >= 3, counts
