"""Running a file in onnxruntime, on a named execution provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fxscale.errors import OnnxError
from fxscale.onnx.feeds import Feed

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_REPEATS = 3
_ERRORS_ONLY = 3


def choose_providers(wanted: Sequence[str] | None) -> list[str]:
    """The providers to run on, each by itself: CUDA where there is a device, and the CPU.

    **Raises:** `OnnxError` for one that this onnxruntime does not have.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if wanted is None:
        has_cuda = CUDA in available and torch.cuda.is_available()
        return [CUDA, CPU] if has_cuda else [CPU]
    missing = [name for name in wanted if name not in available]
    if missing or not wanted:
        found = f"found {missing[0]!r}" if missing else "found none"
        raise OnnxError(f"providers: expected some of {', '.join(available)}, {found}")
    return list(wanted)


def open_session(
    model: Path | bytes, provider: str, *, folder: Path | None = None, optimized: bool = True
) -> Any:
    """An `onnxruntime.InferenceSession` that prefers `provider`.

    `model`: a file, or its bytes with the `folder` where its weights lie. Unless `optimized`, its
    operators run as they are written, none fused.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    if provider == CUDA:
        onnxruntime.preload_dlls()  # torch's own CUDA libraries, where it brings them
    # Rounding products to ten bits would be measured as an error of the file.
    settings = {"use_tf32": "0"} if provider == CUDA else {}
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options,
        providers=[(provider, settings)],
    )


def run_session(session: Any, feed: Feed, outputs: Sequence[str] | None = None) -> list[Tensor]:
    """The outputs, all or those named, as tensors on the CPU."""
    names = [each.name for each in session.get_inputs()]
    arrays = {
        name: tensor.contiguous().numpy() for name, tensor in zip(names, feed.tensors, strict=True)
    }
    return [torch.from_numpy(array) for array in session.run(outputs, arrays)]


def seconds_per_sample(run: Callable[[], object], batch_size: int) -> float:
    """The median of three runs after one that is not counted."""
    times = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times[1:]) / batch_size
