"""Running the torch module that a file is held against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxscale.errors import OnnxError
from fxscale.onnx.feeds import Feed


def run_torch(network: nn.Module, feed: Feed) -> list[Tensor]:
    """The tensors that `network` returns, in the order in which the exporter writes them.

    Runs on the network's own device, without TF32; the results are on the CPU.

    **Raises:** `OnnxError` if the network does not take the file's inputs.
    """
    device = device_of(network)
    inputs = [tensor.to(device) for tensor in feed.tensors]
    try:
        with full_precision():
            outputs = network(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise OnnxError(
            f"{type(network).__name__} does not run on the file's inputs, {shapes}: {error}. "
            "Pass the module that was exported, and batches of its size"
        ) from error
    return [leaf.detach().cpu() for leaf in _leaves(outputs)]


def device_of(network: nn.Module) -> torch.device:
    tensor = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def full_precision() -> Iterator[None]:
    """CUDA without TF32, whose products have ten bits."""
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]  # set at run time
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def _leaves(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
