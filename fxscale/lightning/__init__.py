"""Lightning: the transition inside `Trainer.fit`. Needs the extra `lightning`."""

from __future__ import annotations

from fxscale.lightning.callback import Transition

__all__ = ["Transition"]
