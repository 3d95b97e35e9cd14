from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import pytest
import torch

from fxscale.errors import ModelNotFoundError
from fxscale.models import create, names
from fxscale.models.catalogue import Entry, catalogue, missing_packages
from fxscale.target_size import infer_target_size

Hide = Callable[..., None]


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Hide:
    """Makes packages look as if they were not installed."""
    find_spec = importlib.util.find_spec

    def hidden(*packages: str) -> None:
        def without(name: str, *rest: str | None) -> ModuleSpec | None:
            return None if name in packages else find_spec(name, *rest)

        monkeypatch.setattr("importlib.util.find_spec", without)

    return hidden


def listed(pattern: str) -> list[str]:
    return [entry.name for entry in catalogue(pattern)]


def test_without_a_pattern_lists_every_name() -> None:
    assert listed("") == names()


@pytest.mark.parametrize("name", ["overfeat_fast", "resnet34"])
def test_the_papers_networks_have_the_input_size_that_their_layers_accept(name: str) -> None:
    pytest.importorskip("torchvision")
    (entry,) = [entry for entry in catalogue(name) if entry.name == name]
    with torch.device("meta"):
        model = create(name)
    assert entry.input_size == infer_target_size(model)[0]


def test_resnet34_is_torchvisions() -> None:
    pytest.importorskip("torchvision")
    own, torchvisions = catalogue("resnet34")[0], catalogue("torchvision/resnet34")[0]
    assert Entry("torchvision/resnet34", own.input_size, own.family, own.weights) == torchvisions


def test_models_of_torchvision() -> None:
    pytest.importorskip("torchvision")
    (inception,) = catalogue("torchvision/inception_v3")
    assert inception == Entry("torchvision/inception_v3", (299, 299), "inception", weights=True)
    (video,) = catalogue("torchvision/r3d_18")
    assert (video.input_size, video.family) == ((112, 112), "video.resnet")
    segmentation = catalogue("torchvision/fcn*")
    assert [(entry.input_size, entry.family) for entry in segmentation] == [
        (None, "segmentation.fcn")
    ] * 2


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b1", "tf_efficientnet_l2"])
def test_models_of_timm_have_the_input_size_of_their_configuration(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name)
    (entry,) = [entry for entry in catalogue(f"timm/{name}") if entry.name == f"timm/{name}"]
    assert entry.input_size == model.pretrained_cfg["input_size"][1:]
    assert entry.family == type(model).__module__.removeprefix("timm.models.")
    assert entry.weights is timm.models.is_model_pretrained(name)


def test_text_is_a_part_of_the_name() -> None:
    pytest.importorskip("torchvision")
    assert listed("torchvision/vgg1") == [
        f"torchvision/vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")
    ]
    assert "torchvision/wide_resnet50_2" in listed("resnet50")


def test_a_glob_is_the_whole_name_or_what_stands_behind_the_package() -> None:
    pytest.importorskip("torchvision")
    assert listed("torchvision/vgg1?") == [f"torchvision/vgg{d}" for d in (11, 13, 16, 19)]
    assert listed("alexne[t]") == ["torchvision/alexnet"]
    assert listed("overfeat*") == ["overfeat_fast"]
    assert not [name for name in listed("resnet*") if "wide" in name]


@pytest.mark.parametrize("pattern", ["resnet-34", "RESNET34 "])
def test_a_pattern_that_fits_nothing_is_an_error(pattern: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"^no model fits '{pattern}'"):
        catalogue(pattern)


def test_nothing_to_list_suggests_the_nearest() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean 'overfeat_fast'"):
        catalogue("overfeat-fast")


def test_packages_that_are_not_there_are_left_out_and_told(hide: Hide) -> None:
    hide("timm", "torchvision")
    assert missing_packages() == ("torchvision", "timm")
    assert listed("") == ["overfeat_fast", "resnet34"]
    with pytest.raises(
        ModelNotFoundError,
        match=r"\(torchvision and timm not installed: pip install 'fxscale\[zoo\]'\)$",
    ):
        catalogue("timm/*")


def test_a_package_that_is_there_is_listed_without_the_other(hide: Hide) -> None:
    pytest.importorskip("torchvision")
    hide("timm")
    assert missing_packages() == ("timm",)
    assert {name.partition("/")[0] for name in listed("/")} == {"torchvision"}
