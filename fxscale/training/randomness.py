"""All that is random, from the seed and from where in the run it is drawn.

No generator's state is carried from step to step, so there is none to save: a resumed run, a run
with more loader workers, and in all that happens per image a run on more processes, too, draw what
the plain run draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from numpy.random import SeedSequence

STEP, IMAGE, ORDER, MIXUP = range(4)
"""What is drawn for; the first of the numbers that `derive` mixes with the seed."""


def derive(seed: int, *place: int) -> int:
    """A seed of 64 bits; different for any two different places."""
    return int(SeedSequence((seed, *place)).generate_state(1, "uint64")[0])


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """torch's global generator on the CPU, seeded; afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
