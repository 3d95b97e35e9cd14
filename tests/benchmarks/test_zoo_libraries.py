"""Networks of libraries that need not be there: found by what their modules offer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from benchmarks import _zoo_libraries
from benchmarks._zoo_entries import entry, names
from benchmarks._zoo_libraries import LIBRARIES


class Segmenter(nn.Module):
    def __init__(self, classes: int, in_size: tuple[int, int] = (480, 240)) -> None:
        super().__init__()
        self.in_size = in_size
        self.conv = nn.Conv2d(3, classes, 3, padding=1)


def get_segmenter(version: str, **kwargs: Any) -> Segmenter:
    return Segmenter(len(version), **kwargs)


def padding(x: int) -> int:
    return x


def segmenter_small(pretrained_backbone: bool = False, **kwargs: Any) -> Segmenter:
    assert kwargs.pop("pretrained") is False
    return Segmenter(2, **kwargs)


def test_models_are_made_by_functions_that_take_options_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SimpleNamespace(
        __all__=["Segmenter", "get_segmenter", "padding", "segmenter_small"],
        Segmenter=Segmenter,
        get_segmenter=get_segmenter,
        padding=padding,
        segmenter_small=segmenter_small,
    )
    package = SimpleNamespace(__name__="somewhere", __path__=[])
    modules = {"pytorchcv.models": package, "somewhere.segmenter": module}
    monkeypatch.setattr(_zoo_libraries, "import_module", modules.__getitem__)
    monkeypatch.setattr(
        _zoo_libraries.pkgutil, "iter_modules", lambda _: [SimpleNamespace(name="segmenter")]
    )

    ((name, (size, build)),) = _zoo_libraries.pytorchcv().items()

    assert (name, size) == ("segmenter_small", (256, 256))
    model = build()
    assert isinstance(model, Segmenter)
    assert model.in_size == size


@pytest.mark.parametrize(
    ("library", "package"), [("smp", "segmentation_models_pytorch"), ("monai", "monai")]
)
def test_networks_of_a_library(library: str, package: str) -> None:
    pytest.importorskip(package)
    found = names((library,))
    assert len(found) == len(LIBRARIES[library]()) > 20
    assert entry(found[0]).set == library
