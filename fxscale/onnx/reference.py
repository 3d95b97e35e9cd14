"""Running the torch module that a file is held against."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxscale.errors import OnnxError
from fxscale.onnx.compare import difference
from fxscale.onnx.feeds import Feed
from fxscale.onnx.network import in_eval_mode


class Reference:
    """A torch network as the source of right outputs, in eval mode, on its own device.

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
        try:
            outputs = self._run(self._network, feed, torch.float32 if self.is_copy else None)
        except Exception as error:  # whatever the module raises on inputs that it does not take
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in feed.tensors)
            raise OnnxError(
                f"{type(self._network).__name__} does not run on the file's inputs, {shapes}: "
                f"{error}. Pass the module that was exported, and batches of its size"
            ) from error
        return [_cast(output, torch.float16) for output in outputs] if self.is_copy else outputs

    def roundings(self, feed: Feed) -> list[float]:
        """Per output, what torch itself loses to rounding in the network's dtype.

        The largest difference to a float64 copy, relative to the largest magnitude; 0 where that
        cannot be told (whole numbers, a module that insists on its dtype). Errors of the float32
        copy are scaled to float16, in which every step is that much coarser.
        """
        own = torch.float32 if self.is_copy else None
        outputs = self._run(self._network, feed, own)
        try:
            exact = self._run(self._double, feed, torch.float64)
        except Exception:  # see above: then nothing is known, and nothing is excused
            return [0.0] * len(outputs)
        steps = 2.0**13 if self.is_copy else 1.0  # eps of float16 over eps of float32
        errors = [
            difference(a.double(), b.double())[1] for a, b in zip(outputs, exact, strict=True)
        ]
        return [steps * (error or 0.0) for error in errors]

    @cached_property
    def _double(self) -> nn.Module:
        return copy.deepcopy(self._network).double()

    def _run(self, network: nn.Module, feed: Feed, dtype: torch.dtype | None) -> list[Tensor]:
        inputs = [_cast(tensor, dtype).to(self.device) for tensor in feed.tensors]
        with full_precision(), in_eval_mode(network):
            outputs = network(*inputs)
        leaves = pytree.tree_leaves(outputs)
        return [leaf.detach().cpu() for leaf in leaves if isinstance(leaf, Tensor)]


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


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
