"""The models of the zoo: torchvision's, the backbones of its detectors, and timm's.

A model is named by its set and its own name, `timm/resnet50`, so that a worker process can build
it. Models are first built on the meta device, where a size costs nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._zoo_libraries import LIBRARIES

VIDEO_FRAMES = 16
SEGMENTATION_SIZE = DETECTION_SIZE = 256


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    **Attributes:**

    - `name`: `SET/NAME`, SET one of torchvision, segmentation, video, detection, timm,
      or one of `_zoo_libraries.py`.
    - `family`: models that share their code: timm's module, torchvision's leading letters.
    - `size`: the target size, one int per spatial axis.
    - `build`: makes the module, with random weights.
    """

    name: str
    family: str
    size: tuple[int, ...]
    build: Callable[[], nn.Module]

    @property
    def set(self) -> str:
        return self.name.partition("/")[0]

    def example(self, size: tuple[int, ...], device: str) -> Tensor:
        """Images of random pixels, not as many as the compiler traces with."""
        return torch.randn(3, 3, *size, device=device)


def names(sets: tuple[str, ...]) -> list[str]:
    """All models of the sets, `SET/NAME`."""
    found = ((s, LIBRARIES[s]() if s in LIBRARIES else _NAMES[s]()) for s in sets)
    return [f"{s}/{name}" for s, of_set in found for name in of_set]


def entry(name: str) -> Entry:
    """The model of that name."""
    chosen, _, short = name.partition("/")
    if chosen in LIBRARIES:
        size, build = LIBRARIES[chosen]()[short]
        return Entry(name, short.partition("-")[0], size, partial(_quietly, build))
    return _ENTRIES[chosen](name, short)


def convolves(network: nn.Module) -> bool:
    """Whether it has three or more learnable convolutions with a kernel above 1."""
    convolutions = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        and max(module.kernel_size) > 1
        and module.weight.requires_grad
    ]
    return len(convolutions) >= 3


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Built without memory; on the CPU where a constructor computes with its weights' values.

    On the CPU, too, where modules keep tensors that are neither parameters nor buffers.
    """
    try:
        with torch.device("meta"):
            network = build().to("meta")
    except Exception:  # whatever a constructor raises on meta tensors
        return build()
    kept = (value for module in network.modules() for value in vars(module).values())
    loose = any(isinstance(value, Tensor) and not value.is_meta for value in kept)
    return build() if loose else network


def _torchvision_names(module: str | None) -> list[str]:
    import torchvision

    models = torchvision.models
    found: list[str] = models.list_models(module=getattr(models, module) if module else models)
    return found


def _torchvision(name: str, short: str) -> Entry:
    import torchvision

    size = _crop_size(short)
    kwargs = {"init_weights": True} if short in ("googlenet", "inception_v3") else {}
    build = partial(torchvision.models.get_model, short, weights=None, **kwargs)
    return Entry(name, _letters(short), (size, size), build)


def _crop_size(short: str) -> int:
    """Pixels of the images that the weights were trained on; of several, what models default to."""
    import torchvision

    weights = torchvision.models.get_model_weights(short)
    return min(int(w.transforms().crop_size[0]) for w in weights)


def _segmentation(name: str, short: str) -> Entry:
    import torchvision

    kwargs: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if not short.startswith("lraspp"):
        kwargs["aux_loss"] = True
    build = partial(torchvision.models.get_model, short, **kwargs)
    return Entry(name, _letters(short), (SEGMENTATION_SIZE, SEGMENTATION_SIZE), build)


def _video(name: str, short: str) -> Entry:
    import torchvision

    size = _crop_size(short)
    build = partial(torchvision.models.get_model, short, weights=None)
    return Entry(name, _letters(short), (VIDEO_FRAMES, size, size), build)


def _detection(name: str, short: str) -> Entry:
    import torchvision

    def build() -> nn.Module:
        detector = torchvision.models.get_model(short, weights=None, weights_backbone=None)
        backbone: nn.Module = detector.backbone
        return backbone

    named = re.search(r"3\d\d", short)  # ssd300, ssdlite320: their pyramids ask for that size
    size = int(named[0]) if named else DETECTION_SIZE
    return Entry(name, _letters(short), (size, size), build)


def _timm_names() -> list[str]:
    import timm

    found: list[str] = timm.list_models()
    return found


def _timm(name: str, short: str) -> Entry:
    import timm

    family = timm.models.model_entrypoint(short).__module__.rpartition(".")[2]
    config = timm.get_pretrained_cfg(short)
    size = (224, 224) if config is None else tuple(config.input_size[1:])
    return Entry(name, family, size, partial(_quietly, partial(timm.create_model, short)))


def _quietly(build: Callable[[], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()


def _letters(name: str) -> str:
    """`resnext50_32x4d` -> `resnext`."""
    head = name.partition("_")[0]
    return head.rstrip("0123456789") or head


_NAMES: dict[str, Callable[[], list[str]]] = {
    "torchvision": partial(_torchvision_names, None),
    "segmentation": partial(_torchvision_names, "segmentation"),
    "video": partial(_torchvision_names, "video"),
    "detection": partial(_torchvision_names, "detection"),
    "timm": _timm_names,
}
_ENTRIES: dict[str, Callable[[str, str], Entry]] = {
    "torchvision": _torchvision,
    "segmentation": _segmentation,
    "video": _video,
    "detection": _detection,
    "timm": _timm,
}
SETS = tuple(_NAMES)
"""Those that are checked unless others are named."""
