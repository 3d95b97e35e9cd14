"""Packages of the `train` extra, asked for by name before minutes are spent."""

from __future__ import annotations

from importlib.util import find_spec

from fxscale.errors import FxscaleError


def require(*packages: str) -> None:
    """Raises `FxscaleError` if one of the packages cannot be imported."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise FxscaleError(
            f"training needs {' and '.join(missing)}, which cannot be imported; install the "
            f"`train` extra: pip install 'fxscale[train]'"
        )
