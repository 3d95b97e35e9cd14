from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fxscale.cli.app import app
from fxscale.models import catalogue as catalogue_module
from fxscale.models.catalogue import Entry

runner = CliRunner()

ENTRIES = (
    Entry("timm/a", (224, 224), "resnet", weights=True),
    Entry("timm/a_long_one" + "_more" * 20, None, "vgg", weights=False),
    Entry("timm/b", (224, 192), "vgg", weights=False),
)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "catalogue", lambda pattern: ENTRIES)
    monkeypatch.setattr(catalogue_module, "missing_packages", lambda: ("torchvision",))


@pytest.mark.usefixtures("entries")
def test_one_unbroken_line_per_model() -> None:
    result = runner.invoke(app, ["models", "a"])
    assert result.exit_code == 0
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["name", "input", "family", "weights"]
    assert [line.split() for line in lines] == [
        ["timm/a", "224", "resnet", "yes"],
        [ENTRIES[1].name, "vgg"],
        ["timm/b", "224x192", "vgg"],
    ]
    assert not [line for line in result.stdout.splitlines() if line != line.rstrip()]


@pytest.mark.usefixtures("entries")
def test_missing_packages_are_told_beside_the_list() -> None:
    result = runner.invoke(app, ["models"])
    assert result.stderr == (
        "torchvision is not installed, its models are not listed: pip install 'fxscale[zoo]'\n"
    )
    assert "torchvision" not in result.stdout


@pytest.mark.usefixtures("entries")
def test_json() -> None:
    content = json.loads(runner.invoke(app, ["models", "--json"]).stdout)
    assert content["not_installed"] == ["torchvision"]
    assert [model["input_size"] for model in content["models"]] == [[224, 224], None, [224, 192]]
    assert content["models"][0] == {
        "name": "timm/a",
        "input_size": [224, 224],
        "family": "resnet",
        "weights": True,
    }


@pytest.mark.usefixtures("entries")
def test_quiet_prints_nothing() -> None:
    result = runner.invoke(app, ["models", "a", "-q"])
    assert (result.exit_code, result.output) == (0, "")


def test_the_pattern_chooses() -> None:
    result = runner.invoke(app, ["models", "overfeat_*"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["overfeat_fast", "231", "overfeat"]


def test_a_name_that_nothing_has_is_an_error() -> None:
    result = runner.invoke(app, ["models", "overfeat-fast"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no model fits 'overfeat-fast'; did you mean")
