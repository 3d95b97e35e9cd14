"""The fake inputs at which a model is traced, and the size of the image that they hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from fxscale.errors import SizeError, UnsupportedModelError
from fxscale.plan import Size

BATCH = 2
"""Batch size of the trace: 1 would not pass BatchNorm over 1x1 maps in train mode."""

Examples = Sequence[Any] | Mapping[str, Any] | torch.Tensor | None
_CONVOLUTIONS = nn.modules.conv._ConvNd


@dataclass(frozen=True)
class InputSpec:
    """What a model takes: its arguments by name, and which of them are images.

    `tensors` holds, for each tensor argument, shape, dtype and device; images are the tensors of
    rank `2 + spatial_rank`, laid out `(N, C, *size)`.
    """

    arguments: tuple[str, ...]
    values: Mapping[str, Any]
    spatial_rank: int

    def is_image(self, name: str) -> bool:
        value = self.values[name]
        return isinstance(value, torch.Tensor) and value.ndim == 2 + self.spatial_rank

    def image_size(self) -> Size:
        for name in self.arguments:
            if self.is_image(name):
                return tuple(self.values[name].shape[2:])
        raise UnsupportedModelError(
            "no argument of the model is an image of shape (N, C, *size)",
            remedy="pass example_inputs with at least one image batch",
        )

    def fake(
        self, mode: FakeTensorMode, resize: Callable[[Size], Size], batch: int = BATCH
    ) -> dict[str, Any]:
        """Fake tensors for every argument, each image at `resize(its own size)`.

        With another `batch`, whatever has as many rows as the images gets that many.
        """
        inputs: dict[str, Any] = {}
        with mode:
            for name in self.arguments:
                value = self.values[name]
                if isinstance(value, torch.Tensor):
                    shape = tuple(value.shape)
                    if self.is_image(name):
                        shape = (*shape[:2], *resize(shape[2:]))
                    if shape[:1] == (BATCH,):
                        shape = (batch, *shape[1:])
                    value = torch.empty(shape, dtype=value.dtype, device=value.device)
                inputs[name] = value
        return inputs


def find_convolution(model: nn.Module) -> nn.modules.conv._ConvNd | None:
    """The first convolution layer in the order of definition, which is taken to read the image.

    `None` in a network that convolves by functions alone.
    """
    return next((m for m in model.modules() if isinstance(m, _CONVOLUTIONS)), None)


def first_convolution(model: nn.Module) -> nn.modules.conv._ConvNd:
    """The same. Raises `UnsupportedModelError` if there is none."""
    found = find_convolution(model)
    if found is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no convolution layer, of which the channels of its images "
            "could be read",
            remedy="pass example_inputs if it convolves with weights of its own (F.conv2d); a "
            "network without any convolution has nothing to scale",
        )
    return found


def spatial_rank(model: nn.Module, example_inputs: Examples) -> int:
    """The spatial axes of the model's images: those of its first kernel, or of its examples."""
    found = find_convolution(model)
    tensors = (value for value in tree_leaves(example_inputs) if isinstance(value, torch.Tensor))
    first = next((value for value in tensors if value.ndim > 2), None)
    if found is None and first is not None:
        return first.ndim - 2
    return len(first_convolution(model).kernel_size)


def image_channels(model: nn.Module, conv: nn.modules.conv._ConvNd) -> int:
    """Channels of the images: those of the first convolution, unless space to depth stands before.

    A model may name them (`model.in_chans`). Where it carries a config (timm's `pretrained_cfg`),
    and the convolution reads blocks of `b ** rank` pixels of as many channels as the config names,
    the images have those.
    """
    named = getattr(model, "in_chans", None)
    if type(named) is int:
        return named
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    rank = len(conv.kernel_size)
    if size is None or len(size) != rank + 1 or conv.in_channels == size[0]:
        return conv.in_channels
    blocks = (int(size[0]) * block**rank for block in range(2, conv.in_channels + 1))
    return int(size[0]) if conv.in_channels in blocks else conv.in_channels


def describe_inputs(
    model: nn.Module,
    target_size: Size | None,
    example_inputs: Examples,
    concrete_args: Mapping[str, Any],
) -> InputSpec:
    """Bind the model's arguments to the example inputs, or to one image batch made up for it."""
    parameters = inspect.signature(model.forward).parameters
    rank = spatial_rank(model, example_inputs)
    if example_inputs is None:
        if target_size is None:
            raise ValueError("either a target size or example inputs must be known here")
        conv = first_convolution(model)
        weight = next(conv.parameters())
        channels = image_channels(model, conv)
        example_inputs = (
            torch.empty(
                (BATCH, channels, *check_rank(target_size, rank, "target_size")),
                dtype=weight.dtype,
                device="meta",
            ),
        )
        device = weight.device
    else:
        device = None
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    bind = inspect.signature(model.forward).bind_partial
    try:
        bound = (
            bind(**example_inputs) if isinstance(example_inputs, Mapping) else bind(*example_inputs)
        )
    except TypeError as error:
        raise UnsupportedModelError(
            f"example_inputs do not fit {type(model).__name__}.forward: {error}",
            remedy="pass one value per argument of forward, as a tuple or a dict",
        ) from error
    values: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if isinstance(value, torch.Tensor):
            place = device if device is not None else value.device
            shape = (BATCH, *value.shape[1:]) if value.ndim == 2 + rank else tuple(value.shape)
            if target_size is not None and value.ndim == 2 + rank:
                shape = (*shape[:2], *check_rank(target_size, rank, "target_size"))
            value = _fake(shape, value.dtype, place)
        if name not in concrete_args:
            values[name] = value
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind
        in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        and name not in values
        and name not in concrete_args
    ]
    if missing:
        raise UnsupportedModelError(
            f"{type(model).__name__}.forward needs the argument {missing[0]!r}, for which there is "
            "no value",
            remedy="pass example_inputs with a value for every argument, or concrete_args",
        )
    return InputSpec(tuple(values), values, rank)


def _fake(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor that remembers shape, dtype and device of an input and holds no data."""
    with FakeTensorMode():
        return torch.empty(tuple(shape), dtype=dtype, device=device)


def check_rank(size: Size | int, rank: int, name: str) -> Size:
    """One positive int per spatial axis; a lone int counts for all of them."""
    full = (size,) * rank if isinstance(size, int) and not isinstance(size, bool) else size
    if not isinstance(full, tuple | list) or not all(
        isinstance(n, int) and not isinstance(n, bool) for n in full
    ):
        raise SizeError(f"{name} must be an int or one int per spatial axis, found {size!r}")
    if len(full) != rank:
        raise SizeError(
            f"{name}={size!r} has {len(full)} entries, but the model has {rank} spatial axes; "
            "pass one int per axis, or one int for all"
        )
    if any(n < 1 for n in full):
        raise SizeError(f"{name} must be positive, found {size!r}")
    return tuple(full)
