"""The packages of the extra `onnx`: asked for by name, imported where they are used."""

from __future__ import annotations

from importlib.util import find_spec

from fxscale.errors import OnnxError


def require(*packages: str) -> None:
    """Raises `OnnxError`, naming what is missing and how to get it, unless all are installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise OnnxError(
            f"{' and '.join(missing)} {verb} not installed; ONNX needs the extra `onnx`: "
            "pip install 'fxscale[onnx]'"
        )
