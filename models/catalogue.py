"""What can be built by name, with what is known of each model before it is built."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from fxscale.errors import ModelNotFoundError
from fxscale.models.registry import FORMS, PACKAGES, names, suggestion

Size = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """A model that `fxscale.models.create` builds under `name`.

    - `input_size`: pixels per axis of the images that its published weights are made for; `None`
      where none are published, or where they take images of any size.
    - `family`: the module of its package that defines it (`"resnet"`, `"segmentation.fcn"`).
    - `weights`: whether its package publishes trained weights; fxscale itself downloads none.
    """

    name: str
    input_size: Size | None
    family: str
    weights: bool


_PAPER = {
    "overfeat_fast": Entry("overfeat_fast", (231, 231), "overfeat", weights=False),
    "resnet34": Entry("resnet34", (224, 224), "resnet", weights=True),
}
"""The paper's networks; the second is torchvision's, and named without it, too."""


def catalogue(pattern: str = "") -> tuple[Entry, ...]:
    """The models whose name fits the pattern, in the order of `names`; nothing is built.

    `pattern` is a part of the name, or with `*`, `?` or `[` a glob for all of it or for what stands
    behind the package: `timm/resnet*`, `resnet*`. Packages that are not installed add nothing:
    `missing_packages` tells which.

    **Raises:** `ModelNotFoundError` where no name fits, with the nearest ones.
    """
    known = names()
    found = tuple(_entry(name) for name in known if _fits(name, pattern))
    if not found:
        raise ModelNotFoundError(
            f"no model fits {pattern!r}{suggestion(pattern, known)} Names are {FORMS}{_absent()}"
        )
    return found


def missing_packages() -> tuple[str, ...]:
    """The packages with models, of the extra `zoo`, that are not installed."""
    return tuple(package for package in PACKAGES if importlib.util.find_spec(package) is None)


def _absent() -> str:
    missing = missing_packages()
    if not missing:
        return ""
    return f" ({' and '.join(missing)} not installed: pip install 'fxscale[zoo]')"


def _fits(name: str, pattern: str) -> bool:
    if not set("*?[") & set(pattern):
        return pattern in name
    return any(fnmatchcase(text, pattern) for text in (name, name.partition("/")[2]))


def _entry(name: str) -> Entry:
    if name in _PAPER:
        return _PAPER[name]
    package, _, bare = name.rpartition("/")
    return _of_timm(name, bare) if package == "timm" else _of_torchvision(name, bare)


def _of_torchvision(name: str, bare: str) -> Entry:
    """Its weights carry the transforms that they were evaluated with, and these a crop size."""
    from torchvision import models

    family = models.get_model_builder(bare).__module__.removeprefix("torchvision.models.")
    weights: Any = getattr(models.get_model_weights(bare), "DEFAULT", None)
    if weights is None:
        return Entry(name, None, family, weights=False)
    crop = getattr(weights.transforms(), "crop_size", None)
    size = None if crop is None else (*crop, *crop) if len(crop) == 1 else tuple(crop)
    return Entry(name, size, family, weights=True)


def _of_timm(name: str, bare: str) -> Entry:
    """timm keeps a configuration with the input size of every model's first weights."""
    from timm import models

    config = models.get_pretrained_cfg(bare)
    builder = models.model_entrypoint(bare)
    family = builder.__module__.removeprefix("timm.models.")
    if config is None:
        return Entry(name, None, family, weights=False)
    return Entry(name, tuple(config.input_size[1:]), family, bool(config.has_weights))
