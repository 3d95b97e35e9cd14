"""For every test: one thread a worker, fixed seeds, GPU tests only where there is a GPU."""

from __future__ import annotations

import os
import random

import hypothesis
import numpy
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")

hypothesis.settings.register_profile("fxscale", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fxscale")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # pytest-xdist runs one worker a core


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, in whichever order and worker it runs."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
