"""Tables in Markdown, and results written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fxscale.files import written_whole


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is flush left and all others flush right."""
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullet_list(entries: Mapping[str, str]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in entries.items())


def write_results(folder: Path, name: str, markdown: str, figures: Mapping[str, Any]) -> None:
    """Writes `name.md` and `name.json` into `folder`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {".md": markdown, ".json": json.dumps(figures, indent=1) + "\n"}
    for suffix, text in texts.items():
        with written_whole(folder / f"{name}{suffix}") as partial:
            partial.write_text(text, encoding="utf-8")
