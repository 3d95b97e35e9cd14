"""The report of a comparison: `comparison.html` with its pictures inside, PNG files, and JSON."""

from __future__ import annotations

import base64
import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from fxscale.files import written_whole
from fxscale.training.compare import Comparison
from fxscale.training.comparison_plots import PLOTS
from fxscale.training.comparison_rows import HEADINGS, cells, finding, rows

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
       color: #2e3440; background: white; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid #d8dee9; }
td { font-size: .9rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 12rem; }
tr.target { background: #eceff4; } tr.resized td { font-weight: 600; }
.finding { font-size: 1.15rem; } .note, details { color: #4c566a; }
pre { overflow-x: auto; }
"""

_WIDE_ALONE = ("points over the target", "at the end", "epochs", "at median epoch times")
"""Columns for which a terminal has no room."""


def write_report(comparison: Comparison, output: str | Path) -> Path:
    """Writes pictures, `comparison.json` and `comparison.html` into a folder that is there.

    **Returns:** the path of the HTML file, which needs no other file.
    """
    folder = Path(output)
    pictures = []
    for name, (title, plot) in PLOTS.items():
        plot(comparison, folder / name)
        pictures.append((title, (folder / name).read_bytes()))
    content = as_json(comparison)
    with written_whole(folder / "comparison.json") as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    path = folder / "comparison.html"
    with written_whole(path) as partial:
        partial.write_text(_page(comparison, pictures, content), encoding="utf-8")
    return path


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All figures of the comparison, every epoch of every run, and where they were measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "torch": torch.__version__,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": comparison.gpu,
        },
        "data": comparison.data,
        "seeds": list(comparison.seeds),
        "finding": finding(comparison),
        "remarks": list(comparison.remarks),
        "variants": [
            {
                **{key: value for key, value in asdict(row).items() if key != "variant"},
                "kind": row.variant.kind,
                "key": row.variant.key,
                "name": row.variant.name,
                "settings": row.variant.settings.to_dict(),
                "runs": [history.to_dict() for history in histories],
            }
            for row, histories in zip(rows(comparison), comparison.histories, strict=True)
        ],
    }


def comparison_table(comparison: Comparison) -> Table:
    """The table for a terminal."""
    table = Table(title=_caption(comparison), caption="Training times; evaluations are left out.")
    shown = [n for n, heading in enumerate(HEADINGS) if heading not in _WIDE_ALONE]
    for number in shown:
        table.add_column(HEADINGS[number], justify="right" if number else "left")
    for row in rows(comparison):
        style = "bold" if row.variant.kind == "resized" else None
        table.add_row(*(cells(row)[number] for number in shown), style=style)
    return table


def _caption(comparison: Comparison) -> str:
    count = len(comparison.seeds)
    return "one seed" if count == 1 else f"{count} seeds, mean ± standard deviation"


def _page(
    comparison: Comparison, pictures: list[tuple[str, bytes]], content: dict[str, Any]
) -> str:
    settings = comparison.variants[-1].settings
    machine = content["machine"]
    title = f"{Path(settings.model).name} on {comparison.data}"
    sizes = ", ".join(map(str, settings.pretrain_sizes))
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    where = f"{machine['gpu'] or machine['processor']}, {threads}"
    date = datetime.fromisoformat(content["date"]).strftime("%Y-%m-%d %H:%M UTC")
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    body = "\n".join(
        f'<tr class="{row.variant.kind}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row))
        + "</tr>"
        for row in rows(comparison)
    )
    # The pictures bear their titles, for slides.
    images = "\n".join(
        f'<img alt="{escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture).decode()}">'
        for name, picture in pictures
    )
    options = escape(json.dumps(settings.to_dict(), indent=1))
    remarks = "".join(
        f'<p class="note">{escape(r[:1].upper() + r[1:])}.</p>' for r in comparison.remarks
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>
<body>
<h1>{escape(title)}: {settings.target_size} px, pre-trained at {escape(sizes)} px</h1>
<p class="finding">{escape(content["finding"])}</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
<p class="note">{escape(_caption(comparison))}; all runs of a seed start from the same weights and
see the images in the same order. The best accuracy is that of the network that the run ended with,
and the epoch is the one it was reached in. Times are those of training, of transitions and of
<code>torch.compile</code>; evaluations are left out. "At median epoch times" is the time saved had
every epoch of a phase taken the phase's median time. Progressive resizing trains the unchanged
network on small images first.
Thin lines: networks before the last transition. Rings: right after a transition. Bands: from the
lowest to the highest seed. Dotted, in the last picture: the accuracy of the target alone.</p>
{remarks}
{images}
<h2>How it was measured</h2>
<p class="note">{date}, torch {escape(machine["torch"])}, {escape(where)}, data:
{escape(comparison.data)}.</p>
<details><summary>Settings of the runs with a transition</summary><pre>{options}</pre></details>
</body>
</html>
"""
