from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy  # noqa: E402

from fxscale.errors import FxscaleError  # noqa: E402
from fxscale.lightning.running import require_whole_parameters  # noqa: E402


def test_strategies_that_split_parameters_are_refused() -> None:
    def check(strategy: Any) -> None:
        running: Any = SimpleNamespace(strategy=strategy)
        require_whole_parameters(running)

    check(DDPStrategy())
    with pytest.raises(
        FxscaleError, match=r"FSDPStrategy may split .* one device or with strategy="
    ):
        check(FSDPStrategy())
