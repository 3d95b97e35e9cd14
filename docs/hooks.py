"""Measurements are pages of the site, too: `benchmarks/results/` lies outside `docs/`.

Pages link to them as they lie in the checkout (`../benchmarks/results/step_time.md`), so that the
links work in any viewer of the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "benchmarks/results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", ".json", ".jsonl", ".png", ".svg"):
            name = f"{RESULTS}/{path.name}"
            result = File.generated(config, name, abs_src_path=str(path))
            result.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(result)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links that leave `docs/` for the results stay inside the site."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri.startswith(RESULTS):
        return markdown
    outside, inside = "../" * (depth + 1), "../" * depth
    return re.sub(rf"\]\({re.escape(outside)}({RESULTS}/)", rf"]({inside}\1", markdown)
