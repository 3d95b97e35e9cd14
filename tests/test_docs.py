"""The pages of the site: their Python runs, page by page, and the navigation names all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fxscale
from tests.code_blocks import code_blocks, run_python

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
WITH_PYTHON = [page for page in PAGES if next(code_blocks(DOCS / page, "python"), None)]
NEEDS = {
    "tutorial.md": ("sklearn",),
    "how-to/timm.md": ("timm",),
    "how-to/lightning.md": ("lightning",),
}
"""Page -> packages that its code imports beside fxscale's own."""


# Lightning's: a deprecation in its own code, and advice about loaders that a tiny example ignores.
@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
)
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")  # pages show what is printed there
    registry = fxscale.passes.ops.registry._REGISTRY
    monkeypatch.setattr(fxscale.passes.ops.registry, "_REGISTRY", dict(registry))
    assert run_python(DOCS / page) > 0


def test_pages_that_promise_code_have_some() -> None:
    expected = {"index.md", "tutorial.md", "how-it-works.md", "comparison.md"}
    expected |= {page for page in PAGES if page.startswith("how-to/")}
    assert expected <= set(WITH_PYTHON)


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_is_found(page: str) -> None:
    """None hides behind an indent, a title or another spelling of the language."""
    text = (DOCS / page).read_text(encoding="utf-8")
    fences = re.findall(r"^ *(?:```+|~~~+) *\{?\.?(?:py|python|pycon)\b.*$", text, re.MULTILINE)
    assert fences == ["```python"] * len(list(code_blocks(DOCS / page, "python")))


def test_navigation_names_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = re.findall(r": ([\w/-]+\.md)$", navigation, re.MULTILINE)
    assert sorted(named) == PAGES


def test_pages_fetch_nothing_from_elsewhere() -> None:
    """Formulas, fonts and styles come with the site: it works without a network."""
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "://" not in configuration
    assert "\n  font: false" in configuration


def test_reference_names_everything_public() -> None:
    documented = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    names = {path.rpartition(".")[2] for path in documented}
    by_module = {"errors": fxscale.errors}
    for module in by_module.keys() & names:
        names |= vars(by_module[module]).keys()
    public = set(fxscale.__all__) - {"__version__"}
    aliases = {"register": "handles"}
    assert {aliases.get(name, name) for name in public} <= names
