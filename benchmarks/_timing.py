"""Step times that can be compared although the machine is noisy.

The steps are run in turn, one of each per round, so that whatever slows the machine down slows
all of them; the median over the rounds forgets the outliers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Step = Callable[[], None]
WARM_UP = 3


def alternating_medians(
    steps: Mapping[str, Step], *, repeats: int, device: torch.device, warm_up: int = WARM_UP
) -> dict[str, float]:
    """Median seconds of each step, over `repeats` rounds after `warm_up` that are not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(warm_up + repeats):
        for name, step in steps.items():
            _synchronise(device)
            started = time.perf_counter()
            step()
            _synchronise(device)
            if round_ >= warm_up:
                times[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in times.items()}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
