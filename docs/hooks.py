"""What the site holds beside `docs/`: measurements, and MathJax.

Measurements are pages, too: `benchmarks/results/` lies outside `docs/`. Pages link to them as they
lie in the checkout (`../benchmarks/results/step_time.md`), so that the links work in any viewer of
the repository; here they, and links to the README, stay in the site. MathJax is copied from an
installed package, so that formulas show where there is no network.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "benchmarks/results"
IN_THE_SITE = {"README.md#layers-of-your-own": "how-to/own-layers.md"}
"""Sections of the README that pages link to -> the site's page about the same."""
MATHJAX = "mathjax/static/mathjax/es5/tex-svg.js"
"""Draws formulas as paths: one file, without fonts."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", ".json", ".jsonl", ".png", ".svg"):
            name = f"{RESULTS}/{path.name}"
            result = File.generated(config, name, abs_src_path=str(path))
            result.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(result)
    script = File.generated(config, "javascripts/tex-svg.js", abs_src_path=_mathjax())
    files.append(script)
    return files


def _mathjax() -> str:
    try:
        return str(distribution("django-static-mathjax").locate_file(MATHJAX))
    except PackageNotFoundError as error:
        raise PluginError("formulas need MathJax: pip install 'fxscale[docs]'") from error


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    depth = page.file.src_uri.count("/")
    if page.file.src_uri.startswith(RESULTS):
        return markdown
    outside, inside = "../" * (depth + 1), "../" * depth
    for section, page_here in IN_THE_SITE.items():
        markdown = markdown.replace(f"]({outside}{section})", f"]({inside}{page_here})")
    return re.sub(rf"\]\({re.escape(outside)}({RESULTS}/)", rf"]({inside}\1", markdown)
