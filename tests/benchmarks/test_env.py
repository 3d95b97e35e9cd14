from __future__ import annotations

import sys

import pytest
import torch

from benchmarks._env import command, environment


def test_command_leaves_out_the_folders_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        ["/home/me/benchmarks/step_time.py", "--data", "/home/me/images.tar", "-n", "3"],
    )

    assert command() == "python -m benchmarks.step_time --data images.tar -n 3"


def test_environment_names_device_and_versions() -> None:
    facts = environment(torch.device("cpu"))

    assert facts["torch"] == torch.__version__
    assert facts["device"].endswith(f"{torch.get_num_threads()} threads")
    assert facts["date"].endswith("UTC")
