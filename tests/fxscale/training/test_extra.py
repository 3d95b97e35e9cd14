from __future__ import annotations

import pytest

from fxscale.errors import FxscaleError
from fxscale.training.extra import require


def test_installed_packages_pass() -> None:
    require("torch", "rich")


def test_missing_packages_are_named() -> None:
    with pytest.raises(
        FxscaleError, match=r"training needs no_such_a and no_such_b, .*fxscale\[train\]"
    ):
        require("torch", "no_such_a", "no_such_b")
