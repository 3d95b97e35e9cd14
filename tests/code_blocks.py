"""The fenced code blocks of a Markdown page, and how its Python is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def code_blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """`(line, source)` of every fenced block of that language; lines counted from 1."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start(1)) + 1, match[1]


def run_python(page: Path) -> int:
    """Run the Python of a page, one block after the other in one namespace; how many there were."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    blocks = list(code_blocks(page, "python"))
    for line, source in blocks:
        # Empty lines in front, so that a traceback shows the line of the page.
        program = compile("\n" * (line - 1) + source, str(page), "exec")
        exec(program, namespace)
    return len(blocks)
