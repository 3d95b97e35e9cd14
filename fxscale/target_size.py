"""The target's own input size, where the user does not name it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from fxscale.errors import SizeError
from fxscale.passes.assignments import KeepingData
from fxscale.passes.evaluate import quiet_failures
from fxscale.passes.inputs import BATCH, first_convolution, image_channels
from fxscale.passes.skeleton import share_tensors
from fxscale.plan import Size

USUAL = (224, 299)
"""The sizes at which ImageNet networks are trained; taken where the model accepts one of them."""

LARGEST = 512
"""Up to this size, an image that the fully connected interface accepts is looked for."""


def infer_target_size(model: nn.Module) -> tuple[Size, str]:
    """The input size of `model`, one length per spatial axis, and how it was found.

    1. The model's own config, where it carries one (timm's `pretrained_cfg`).
    2. The size that its fully connected interface accepts: 224 or 299 if it does, else the
       smallest.

    **Raises:** `SizeError` if no square image up to 512 pixels runs through the model.
    """
    rank = len(first_convolution(model).kernel_size)
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if size is not None and len(size) == rank + 1:
            return tuple(int(n) for n in size[1:]), f"{name}['input_size'] of the model"
    failure = _probe(model, rank)
    for length in USUAL:
        if failure(length) is None:
            return (length,) * rank, "the model accepts it, and it is a usual size"
    for length in range(8, LARGEST + 1):
        if failure(length) is None:
            return (length,) * rank, "the smallest size that the fully connected interface accepts"
    raise SizeError(
        f"no square input of 8 to {LARGEST} pixels runs through {type(model).__name__} (at "
        f"{USUAL[0]}: {failure(USUAL[0])}); pass target_size, or example_inputs"
    )


def _probe(model: nn.Module, rank: int) -> Callable[[int], str | None]:
    """Why a fake batch of square images of a given length does not run through; None if it does."""
    conv = first_convolution(model)
    weight, channels = next(conv.parameters()), image_channels(model, conv)
    skeleton = share_tensors(model)
    for module in skeleton.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = _same  # type: ignore[assignment, method-assign]  # the fake operator is slow
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def failure(length: int) -> str | None:
        with mode, quiet_failures(), torch.no_grad(), KeepingData():
            image = torch.empty(
                (BATCH, channels, *(length,) * rank),
                dtype=weight.dtype,
                device=weight.device,
            )
            try:
                outputs = [skeleton.train(mode)(image) for mode in (False, True)]
            except DataDependentOutputException:
                return "forward asks for the contents of a tensor, and none are computed here"
            except Exception as error:  # whatever it raises at this size, the size is not its own
                return str(error).partition("\n")[0] or type(error).__name__
        # A hard-coded view(-1, C * H * W) may run at other sizes by mixing up the batch.
        mixed = [o for o in outputs if isinstance(o, torch.Tensor) and o.shape[0] != BATCH]
        return f"a batch of {BATCH} comes out as one of {mixed[0].shape[0]}" if mixed else None

    return failure


def _same(image: torch.Tensor) -> torch.Tensor:
    return image
