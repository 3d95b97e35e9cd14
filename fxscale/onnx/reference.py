"""Running the torch module that a file is held against."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxscale.errors import OnnxError
from fxscale.onnx.feeds import Feed


class Reference:
    """A torch network as the source of right outputs, on its own device, without TF32.

    On the CPU a float16 network is run as a float32 copy with the same weights, its outputs rounded
    to float16: processors compute float16 in float32 anyway, torch far more slowly so, and the copy
    is the more exact of the two. `is_copy` tells.
    """

    def __init__(self, network: nn.Module) -> None:
        dtypes = {parameter.dtype for parameter in network.parameters()}
        self.device = device_of(network)
        self.is_copy = torch.float16 in dtypes and self.device.type == "cpu"
        self._network = copy.deepcopy(network).float() if self.is_copy else network

    def run(self, feed: Feed) -> list[Tensor]:
        """The tensors that the network returns, in the order in which the exporter writes them.

        **Raises:** `OnnxError` if the network does not take the file's inputs.
        """
        inputs = [self._converted(tensor, torch.float16, torch.float32) for tensor in feed.tensors]
        try:
            with full_precision():
                outputs = self._network(*(tensor.to(self.device) for tensor in inputs))
        except Exception as error:  # whatever the module raises on inputs that it does not take
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            raise OnnxError(
                f"{type(self._network).__name__} does not run on the file's inputs, {shapes}: "
                f"{error}. Pass the module that was exported, and batches of its size"
            ) from error
        leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        return [self._converted(x.detach().cpu(), torch.float32, torch.float16) for x in leaves]

    def _converted(self, tensor: Tensor, before: torch.dtype, after: torch.dtype) -> Tensor:
        return tensor.to(after) if self.is_copy and tensor.dtype == before else tensor


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters lie, the CPU if it has none."""
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
