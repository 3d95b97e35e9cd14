from __future__ import annotations

import json
from pathlib import Path

from benchmarks._table import bullet_list, markdown_table, write_results


def test_markdown_table() -> None:
    assert markdown_table(("a", "b", "c"), [("x", "1", "2"), ("y", "3", "4")]) == (
        "| a | b | c |\n| --- | ---: | ---: |\n| x | 1 | 2 |\n| y | 3 | 4 |"
    )


def test_bullet_list() -> None:
    assert bullet_list({"date": "today", "device": "CPU"}) == "- date: today\n- device: CPU"


def test_results_are_written_twice(tmp_path: Path) -> None:
    write_results(tmp_path / "new", "speed", "# Speed\n", {"speed": 2})

    assert (tmp_path / "new" / "speed.md").read_text() == "# Speed\n"
    assert json.loads((tmp_path / "new" / "speed.json").read_text()) == {"speed": 2}
