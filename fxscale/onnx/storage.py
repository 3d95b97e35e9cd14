"""ONNX files: written whole, above 2 GB in two parts, and what fxscale keeps in them."""

from __future__ import annotations

import os
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import Tensor

from fxscale.errors import OnnxError
from fxscale.files import written_whole
from fxscale.onnx.packages import require
from fxscale.plan import ScalePlan

if TYPE_CHECKING:
    import onnx
    from onnxscript import ir

PLAN_KEY = "fxscale_plan"
"""Under this key of the metadata lies the plan, as JSON."""

LARGEST_FILE = 2**31 - 2**26
"""Bytes of weights that still go into the file itself.

Protobuf, the format of ONNX files, ends at 2 GiB; 64 MiB are left to the graph and the plan.
"""


def save_model(model: ir.Model, path: Path, *, largest: int = LARGEST_FILE) -> None:
    """Write `model` to `path`, its weights beside it where they are more than `largest` bytes.

    `path` appears whole or not at all. Weights of their own go to `<name>.<random>.data`: a new
    name each time, so that an older file at `path` is whole until the new one takes its place.
    """
    weights = model.graph.initializers.values()
    size = sum(value.const_value.nbytes for value in weights if value.const_value is not None)
    data = path.with_name(f"{path.name}.{uuid4().hex[:8]}.data") if size > largest else None
    try:
        with written_whole(path) as partial:
            if data is None:
                _save(model, partial)
            else:
                _save_in_two(model, partial, data)
    except BaseException:
        if data is not None:
            data.unlink(missing_ok=True)
        raise
    for stale in path.parent.glob(f"{escape(path.name)}.{'[0-9a-f]' * 8}.data"):
        if stale != data:
            stale.unlink()


def _save(model: ir.Model, path: Path, **options: Any) -> None:
    from onnxscript import ir

    ir.save(model, path, **options)


def _save_in_two(model: ir.Model, path: Path, data: Path) -> None:
    # The model file names its data file, so that it is written beside one of the final name.
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        _save(model, Path(folder) / path.name, external_data=data.name)
        with written_whole(data) as partial:
            os.replace(Path(folder) / data.name, partial)
        os.replace(Path(folder) / path.name, path)


def read_model(path: Path, *, weights: bool = False) -> onnx.ModelProto:
    """The model in a file; weights that lie in a file of their own are read if `weights`.

    **Raises:** `OnnxError` if it is no ONNX file; `OSError` as `open` does.
    """
    require("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=weights)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise OnnxError(
            f"{path} ({path.stat().st_size} bytes) is not a whole ONNX file: {error}. "
            "Export it again"
        ) from error
    if not model.graph.output:  # protobuf reads some other files as an empty model
        raise OnnxError(f"{path} holds no network: expected an ONNX file with at least one output")
    return model


def plan_in(path: str | Path) -> ScalePlan | None:
    """The plan that an exported network carries, `None` where there is none.

    Needs nothing but the file, and runs nothing from it.

    **Raises:** `OnnxError` if it is no ONNX file, `PlanMismatchError` if the plan is corrupt.
    """
    from fxscale.plan_json import plan_from_json

    metadata = {entry.key: entry.value for entry in read_model(Path(path)).metadata_props}
    text = metadata.get(PLAN_KEY)
    return None if text is None else plan_from_json(text, source=f"the plan in {path}")


def weights_in(path: str | Path) -> dict[str, Tensor]:
    """The initialisers of a model: parameters and buffers under the names they have in torch.

    Holds what the network computes with in eval mode; what it does not use was not exported. Fresh
    tensors on the CPU.

    **Raises:** `OnnxError` if it is no ONNX file.
    """
    model = read_model(Path(path), weights=True)
    from onnx import numpy_helper

    return {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
