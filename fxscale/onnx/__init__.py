"""ONNX: networks as files for other runtimes, and the proof that these files are right.

1. `export_onnx` writes a pre-train network or a target network, its plan inside the file.
2. `validate_onnx` runs the file in onnxruntime beside the torch module, as an `OnnxReport`.
3. `upscale_with_onnx` maps weights back by ONNX operators: `upscale_state`, written a second time.

Needs the extra `onnx` (`pip install 'fxscale[onnx]'`); importing this package does not.
"""

from __future__ import annotations

from fxscale.onnx.export import export_onnx
from fxscale.onnx.inverse import upscale_with_onnx
from fxscale.onnx.report import OnnxReport
from fxscale.onnx.storage import plan_in, weights_in
from fxscale.onnx.validate import validate_onnx

__all__ = [
    "OnnxReport",
    "export_onnx",
    "plan_in",
    "upscale_with_onnx",
    "validate_onnx",
    "weights_in",
]
