from __future__ import annotations

import sys

import pytest

from fxscale.errors import FxscaleError
from fxscale.training.extra import require


def test_installed_packages_pass() -> None:
    loaded = set(sys.modules)
    require("torch", "rich")
    assert set(sys.modules) == loaded  # looked up, not imported


def test_missing_packages_are_named() -> None:
    with pytest.raises(
        FxscaleError, match=r"training needs no_such_a and no_such_b, .*fxscale\[train\]"
    ):
        require("torch", "no_such_a", "no_such_b")
