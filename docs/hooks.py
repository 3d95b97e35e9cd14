"""Measurements are pages of the site, too: `benchmarks/results/` lies outside `docs/`.

Pages link to them as they lie in the checkout (`../benchmarks/results/step_time.md`), so that the
links work in any viewer of the repository; here they, and links to the README, stay in the site.
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
IN_THE_SITE = {"README.md#layers-of-your-own": "how-to/own-layers.md"}
"""Sections of the README that pages link to -> the site's page about the same."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", ".json", ".jsonl", ".png", ".svg"):
            name = f"{RESULTS}/{path.name}"
            result = File.generated(config, name, abs_src_path=str(path))
            result.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(result)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    depth = page.file.src_uri.count("/")
    if page.file.src_uri.startswith(RESULTS):
        return markdown
    outside, inside = "../" * (depth + 1), "../" * depth
    for section, page_here in IN_THE_SITE.items():
        markdown = markdown.replace(f"]({outside}{section})", f"]({inside}{page_here})")
    return re.sub(rf"\]\({re.escape(outside)}({RESULTS}/)", rf"]({inside}\1", markdown)
