"""What a network is validated on: real images, and random batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from fxscale.errors import OnnxError

if TYPE_CHECKING:
    import onnx

RANDOM_SIZES = (1, 2, 7)
"""1 and 2 are where batch sizes get taken for constants; 7 is no power of two."""

_REAL_IMAGES = 8


@dataclass(frozen=True)
class Input:
    """One input of the file; `None` in `shape` is a length that is free."""

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Feed:
    """One batch: `tensors` in the order of the file's inputs, on the CPU."""

    kind: str
    tensors: tuple[Tensor, ...]

    @property
    def batch_size(self) -> int:
        return self.tensors[0].shape[0]


def inputs_of(model: onnx.ModelProto) -> tuple[Input, ...]:
    """The inputs that a caller has to give: older files list their weights, too.

    **Raises:** `OnnxError` if the first of them has no batch dimension, or there are none.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_input(value) for value in model.graph.input if value.name not in weights)
    if not inputs or not inputs[0].shape:
        raise OnnxError("the file takes no images: expected an input of shape (N, C, *size)")
    return inputs


def _input(value: onnx.ValueInfoProto) -> Input:
    from onnx import helper

    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    try:
        sample = torch.from_numpy(numpy.zeros(1, helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    except (KeyError, TypeError):
        name = helper.tensor_dtype_to_string(kind.elem_type)
        raise OnnxError(
            f"input {value.name!r} is {name}, which cannot be fed to onnxruntime from torch: "
            "export the network as float32 or float16"
        ) from None
    return Input(value.name, shape, sample.dtype)


def random_feeds(inputs: Sequence[Input]) -> Iterator[Feed]:
    """Standard normal batches of 1, 2 and 7 samples, or of the one size that the file takes."""
    generator = torch.Generator().manual_seed(0)
    fixed = inputs[0].shape[0]
    for size in RANDOM_SIZES if fixed is None else (fixed,):
        yield Feed("random", tuple(_random(each, size, generator) for each in inputs))


def _random(each: Input, batch_size: int, generator: torch.Generator) -> Tensor:
    shape = [batch_size if length is None else length for length in each.shape]
    if each.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(each.dtype)
    return torch.zeros(shape, dtype=each.dtype)


def real_images(inputs: Sequence[Input]) -> Feed | None:
    """Handwritten digits that come with scikit-learn, or `None`: not installed, or no images taken.

    Enlarged to the file's size (bilinear), the same in every channel, standardised.
    """
    batch, *image = inputs[0].shape
    lengths = [length for length in image if length is not None]
    if len(inputs) > 1 or len(image) != 3 or len(lengths) != 3 or not find_spec("sklearn"):
        return None
    from sklearn.datasets import load_digits

    channels, height, width = lengths
    images = torch.from_numpy(load_digits().images[: batch or _REAL_IMAGES]).float()[:, None]
    images = (images - images.mean()) / images.std()
    images = F.interpolate(images, size=(height, width), mode="bilinear")
    return Feed("real", (images.expand(-1, channels, -1, -1).to(inputs[0].dtype),))


def given_feeds(batches: Iterable[Any], inputs: Sequence[Input]) -> Iterator[Feed]:
    """The caller's batches: tensors, or tuples that begin with the file's inputs (labels follow).

    **Raises:** `OnnxError` for a batch that does not fit the file.
    """
    for index, batch in enumerate(batches):
        values = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        tensors = values[: len(inputs)]
        if len(tensors) < len(inputs) or not all(isinstance(t, Tensor) for t in tensors):
            raise OnnxError(
                f"batch {index}: expected {len(inputs)} tensors, as the file has inputs, or a "
                f"tuple that begins with them, found {type(batch).__name__}"
            )
        for tensor, each in zip(tensors, inputs, strict=True):
            _check(tensor, each, index)
        yield Feed("real", tuple(t.detach().cpu() for t in tensors))


def _check(tensor: Tensor, each: Input, index: int) -> None:
    fits = len(each.shape) == tensor.ndim and all(
        expected in (None, length)
        for expected, length in zip(each.shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != each.dtype:
        shape = tuple("N" if length is None else length for length in each.shape)
        raise OnnxError(
            f"batch {index}: input {each.name!r} of the file takes {each.dtype} of shape "
            f"({', '.join(map(str, shape))}), found {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
