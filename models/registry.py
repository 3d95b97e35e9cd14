"""From a model's name, as one writes it on a command line, to the model.

1. `overfeat_fast`, `resnet34`: the two networks of the paper.
2. `torchvision/NAME`, `timm/NAME`: every model these packages list; need the extra `zoo`.
3. `path/to/file.py:factory`: a function or class of the user's own that returns a module.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from torch import nn

from fxscale.errors import ModelNotFoundError
from fxscale.models.overfeat import overfeat_fast

Factory = Callable[..., nn.Module]

FORMS = "overfeat_fast, resnet34, torchvision/NAME, timm/NAME, path/to/file.py:factory"
"""The ways to write a model's name, for help texts and messages."""


def create(name: str, /, **arguments: object) -> nn.Module:
    """Builds the model called `name`; `arguments` (say `num_classes=10`) go to its factory.

    Models start with random weights: nothing is downloaded unless the arguments ask for it.

    **Raises:** `ModelNotFoundError` if there is no such model, the package or file that it comes
    from is missing, the factory refuses the arguments or returns something else than a module.
    """
    factory = resolve(name)
    try:
        model = factory(**arguments)
    except ModelNotFoundError:
        raise
    except Exception as error:  # whatever the user's factory raises
        raise ModelNotFoundError(
            f"model {name!r} could not be built with {_spell(arguments)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelNotFoundError(
            f"the factory of model {name!r} returned a {type(model).__name__}, "
            "expected a torch.nn.Module"
        )
    return model


def resolve(name: str) -> Factory:
    """The factory behind `name`, in one of the three forms above.

    **Raises:** `ModelNotFoundError`, with the nearest known names.
    """
    if name.endswith(".py") or ".py:" in name:
        return _from_file(name)
    package, _, rest = name.partition("/")
    if package in PACKAGES and rest:
        return PACKAGES[package](rest)
    if name in _OWN:
        return _OWN[name]
    # A bare name may be another package's, so these are asked too, as far as they are installed.
    raise _unknown(name, names())


def names() -> list[str]:
    """All names that `resolve` knows here: the paper's networks, then the installed packages'."""
    known = list(_OWN)
    if importlib.util.find_spec("torchvision"):
        known += _torchvision_names()
    if importlib.util.find_spec("timm"):
        known += _timm_names()
    return known


def resnet34(**arguments: object) -> nn.Module:
    """torchvision's ResNet-34, the paper's second network (section 5.3): 224 × 224 images."""
    return _from_torchvision("resnet34")(**arguments)


def _torchvision_names() -> list[str]:
    from torchvision import models

    return [f"torchvision/{name}" for name in models.list_models()]


def _timm_names() -> list[str]:
    import timm

    return [f"timm/{name}" for name in timm.list_models()]


def _from_torchvision(name: str) -> Factory:
    _require("torchvision")
    from torchvision import models

    try:
        builder: Factory = models.get_model_builder(name)
    except ValueError as error:
        raise _unknown(f"torchvision/{name}", _torchvision_names()) from error
    # Detection and segmentation models would otherwise download a trained backbone.
    if "weights_backbone" in inspect.signature(builder).parameters:
        return partial(builder, weights_backbone=None)
    return builder


def _from_timm(name: str) -> Factory:
    _require("timm")
    import timm

    if not timm.is_model(name):
        raise _unknown(f"timm/{name}", _timm_names())
    return partial(timm.create_model, name)


def _from_file(name: str) -> Factory:
    path_text, colon, attribute = name.rpartition(":")
    if not colon or not path_text.endswith(".py"):
        raise ModelNotFoundError(
            f"{name!r} names a file but no factory in it; write path/to/file.py:factory"
        )
    path = Path(path_text).expanduser().resolve()
    if not path.is_file():
        raise ModelNotFoundError(f"model {name!r}: there is no file {path}")
    module = _execute(path)
    factory = getattr(module, attribute, None)
    if callable(factory):
        return factory  # type: ignore[no-any-return]  # the user's
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    raise ModelNotFoundError(
        f"{path} has no function or class {attribute!r}{suggestion(attribute, own)} "
        f"It defines {', '.join(own) or 'none'}"
    )


def _execute(path: Path) -> ModuleType:
    """Runs a file once per process, under a name of its own, so that its classes stay the same.

    As with `python file.py`, the file's folder is importable while it runs.
    """
    module_name = f"fxscale_file_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ModelNotFoundError(f"{path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        del sys.modules[module_name]
        raise ModelNotFoundError(
            f"running {path} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModelNotFoundError(
            f"{package} is not installed; its models need the extra `zoo`: "
            "pip install 'fxscale[zoo]'"
        )


def _unknown(name: str, known: Iterable[str]) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"there is no model {name!r}{suggestion(name, known)} Names are {FORMS}"
    )


def suggestion(name: str, known: Iterable[str]) -> str:
    """How a sentence ends: `; did you mean ...?`, the same bare name first, or a full stop."""
    known = list(known)
    same = [candidate for candidate in known if candidate.rpartition("/")[2] == name]
    similar = difflib.get_close_matches(name, known, n=3)
    nearest = (same or similar)[:3]
    return f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else "."


def _spell(arguments: dict[str, object]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"


_OWN: dict[str, Factory] = {"overfeat_fast": overfeat_fast, "resnet34": resnet34}
PACKAGES: dict[str, Callable[[str], Factory]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}
"""Packages whose models have names here, as far as they are installed."""
