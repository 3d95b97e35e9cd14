"""Tables that are coloured in a terminal and plain, unbroken lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNBROKEN = 10_000
"""Columns of a pipe: whatever reads it gets one line per row."""


def terminal() -> Console:
    """The console for a command's results, on stdout."""
    width = None if sys.stdout.isatty() else UNBROKEN
    return Console(highlight=False, width=width)


def progress_console(*, as_json: bool, quiet: bool) -> Console:
    """The console on which a long command tells how it goes: stderr where stdout is for JSON."""
    stream = sys.stderr if as_json else sys.stdout
    return Console(stderr=as_json, quiet=quiet, width=None if stream.isatty() else UNBROKEN)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: str = "") -> None:
    """One line per row under the headings; `numbers` names the columns that stand to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        right = heading in numbers.split()
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = terminal()
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())
