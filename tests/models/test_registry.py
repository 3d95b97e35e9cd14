from __future__ import annotations

import importlib.util
import re
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from torch import nn

from fxscale.errors import FxscaleError, ModelNotFoundError
from fxscale.models import create, names, resolve
from fxscale.models.overfeat import OverFeat

FILE = """
from torch import nn
import sibling

not_callable = 3

class Net(nn.Sequential):
    def __init__(self, num_classes=7):
        super().__init__(nn.Conv2d(3, sibling.CHANNELS, 3), nn.Linear(4, num_classes))

def make(num_classes=5):
    return Net(num_classes)

def number():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "sibling.py").write_text("CHANNELS = 4\n")
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    return path


def test_own_networks() -> None:
    model = create("overfeat_fast", num_classes=10, width=1 / 32)
    assert isinstance(model, OverFeat)
    assert model.fc8.out_features == 10


def test_resnet34_is_torchvisions() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model, again = create("resnet34", num_classes=10), create("torchvision/resnet34")
        expected = torchvision.models.resnet34(num_classes=10)
    assert type(model) is type(again) is torchvision.models.ResNet
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in expected.state_dict().items()}


def test_torchvision_downloads_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("tried to download weights")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with torch.device("meta"):
        assert isinstance(create("torchvision/lraspp_mobilenet_v3_large"), nn.Module)


def test_timm() -> None:
    pytest.importorskip("timm")
    model = create("timm/resnet10t", num_classes=3)
    assert model.get_submodule("fc").weight.shape[0] == 3


def test_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert create(f"{file}:make")[1].out_features == 5
    assert create(f"{file}:Net", num_classes=2)[1].out_features == 2
    assert resolve(f"{file}:Net") is resolve(f"{file}:Net")
    monkeypatch.chdir(file.parent)
    assert resolve("nets.py:Net") is resolve(f"{file}:Net")


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("overfeat_fats", "'overfeat_fast'"),
        ("resnet-34", "'resnet34'"),
        ("torchvision/resnet43", "'torchvision/resnet34'"),
        ("timm/convnext_tinny", "'timm/convnext_tiny'"),
        ("convnext_tiny", "'torchvision/convnext_tiny' or 'timm/convnext_tiny'"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(name: str, suggested: str) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(name)
    message = str(caught.value)
    assert message.startswith(f"there is no model {name!r}; did you mean ")
    assert suggested in message
    assert "path/to/file.py:factory" in message


def test_a_name_like_no_other_gets_the_forms() -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model '@@@'\. Names are overfeat_fast"):
        resolve("@@@")


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def without(name: str, *rest: str | None) -> ModuleSpec | None:
        return None if name == package else find_spec(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", without)
    expected = f"{package} is not installed; its models need the extra `zoo`: pip install"
    with pytest.raises(ModelNotFoundError, match=expected):
        resolve(f"{package}/resnet34")
    if package == "torchvision":
        with pytest.raises(ModelNotFoundError, match=f"^{expected}"):
            create("resnet34")
    assert not [name for name in names() if name.startswith(package)]


def test_files_that_lead_nowhere(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    defines = "It defines Net, make, number"
    cases = {
        f"{file}": "names a file but no factory in it; write path/to/file.py:factory",
        f"{tmp_path}/none.py:make": f"there is no file {tmp_path}/none.py",
        f"{file}:mak": f"no function or class 'mak'; did you mean 'make'? {defines}",
        f"{file}:not_callable": f"no function or class 'not_callable'. {defines}",
        f"{broken}:make": f"running {broken} failed: ZeroDivisionError: division by zero",
    }
    for name, message in cases.items():
        with pytest.raises(ModelNotFoundError, match=re.escape(message)):
            resolve(name)


def test_factories_that_fail(file: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"could not be built with depth=3: TypeError: "):
        create(f"{file}:make", depth=3)
    with pytest.raises(ModelNotFoundError, match=r"returned a int, expected a torch\.nn\.Module"):
        create(f"{file}:number")


def test_names_resolve() -> None:
    known = names()
    assert known[:2] == ["overfeat_fast", "resnet34"]
    assert len(known) == len(set(known))
    for name in known[:60]:
        assert callable(resolve(name))


def test_the_error_is_one_of_fxscales() -> None:
    assert issubclass(ModelNotFoundError, FxscaleError)
