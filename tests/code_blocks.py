"""The fenced code blocks of a Markdown page, and how its Python is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path


def code_blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """`(line, source)` of every fenced block of that language; lines counted from 1."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start(1)) + 1, match[1]


def run_python(page: Path) -> int:
    """Run the Python of a page, one block after the other in one namespace; how many there were.

    A block of `text` right behind one of Python shows what that prints, and is held against it.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    shown = dict(code_blocks(page, "text"))
    blocks = list(code_blocks(page, "python"))
    for line, source in blocks:
        # Empty lines in front, so that a traceback shows the line of the page.
        program = compile("\n" * (line - 1) + source, str(page), "exec")
        with redirect_stdout(StringIO()) as printed:
            exec(program, namespace)
        behind = line + source.count("\n") + 3  # the fence, an empty line, the next fence
        if behind in shown:
            assert printed.getvalue() == shown[behind], f"{page}:{behind} shows something else"
    return len(blocks)
