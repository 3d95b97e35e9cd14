"""Train and eval mode of the modules of a network."""

from __future__ import annotations

TRAIN, EVAL = True, False
