"""The zoo's results: a table by set and family, the reasons of refusals, the times."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks._table import bullet_list, markdown_table
from benchmarks._zoo_check import Record

STATUSES = ("ok", "refused", "wrong", "not built")


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Counts by set, and the figures of the compile times."""
    sets: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        sets[group(record)][record["status"]] += 1
    times = sorted(r["seconds"] for r in records if "seconds" in r and r["status"] == "ok")
    nodes, seconds = _points(records)
    figures: dict[str, Any] = {"sets": {name: dict(counts) for name, counts in sets.items()}}
    if times:
        figures["seconds"] = {
            "median": median(times),
            "largest": times[-1],
            "power_of_nodes": _power(nodes, seconds),
        }
        figures["checking_seconds"] = sum(r.get("total_seconds", 0.0) for r in records)
    return figures


def group(record: Record) -> str:
    """The set; timm's in two, by whether the model has three real convolutions."""
    if record.get("set") == "timm":
        return "timm, 3 convolutions or more" if record.get("convolves") else "timm, others"
    return str(record.get("set"))


def report(records: Sequence[Record], facts: Mapping[str, str]) -> str:
    figures = summary(records)
    full = sum(r.get("checks") == "all" for r in records)
    how = f"{full} of {len(records)} models with all checks, the others compiled and run on meta."
    parts = ["# The zoo", bullet_list(facts), how, _sets(figures)]
    if "seconds" in figures:
        seconds = figures["seconds"]
        parts.append(
            f"Compiling takes {seconds['median']:.2f} s in the median and "
            f"{seconds['largest']:.1f} s at most (processor time); it grows with the "
            f"{seconds['power_of_nodes']:.2f}th power of the number of graph nodes "
            f"(least squares over the logarithms). All checks of all models together took "
            f"{figures['checking_seconds'] / 60:.0f} minutes of worker time."
        )
    parts += ["## By family", _families(records), "## Not ok", _reasons(records)]
    return "\n\n".join(parts) + "\n"


def _sets(figures: Mapping[str, Any]) -> str:
    rows = []
    for name, counts in figures["sets"].items():
        total = sum(counts.values()) - counts.get("not built", 0)
        share = f"{100 * counts.get('ok', 0) / total:.1f} %" if total else ""
        rows.append([name, *(str(counts.get(s, 0)) for s in STATUSES), share])
    return markdown_table(["set", *STATUSES, "ok"], rows)


def _families(records: Sequence[Record]) -> str:
    families: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        families[group(record), record.get("family", "")].append(record)
    rows = []
    for (name, family), members in families.items():
        counts = Counter(r["status"] for r in members)
        good = [r for r in members if r["status"] == "ok"]
        middle = [f"{median(r[key] for r in good):.4g}" if good else "" for key in _MEDIANS]
        rows.append([f"{name}: {family}", *(str(counts[s]) for s in STATUSES), *middle])
    return markdown_table(["family", *STATUSES, *_MEDIANS.values()], rows)


_MEDIANS = {
    "seconds": "seconds",
    "nodes": "nodes",
    "convs": "convs",
    "pad_operators": "pads",
    "max_drift": "drift",
    "mac_ratio": "MAC ratio",
}


def _reasons(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        if record["status"] == "ok":
            continue
        where = record.get("module") or record.get("node") or record.get("stage", "")
        reason = " ".join(str(record.get("reason", "")).split())
        shown = reason[:160].replace("|", "/").replace("`", "'")
        rows.append([record["name"], record["status"], where, f"`{shown}`"])  # no Markdown inside
    return markdown_table(["model", "status", "where", "reason"], rows)


def _points(records: Sequence[Record]) -> tuple[list[int], list[float]]:
    good = [r for r in records if r["status"] == "ok"]
    return [r["nodes"] for r in good], [r["seconds"] for r in good]


def _power(nodes: Sequence[int], seconds: Sequence[float]) -> float:
    if len(set(nodes)) < 2:
        return float("nan")
    slope, _ = np.polyfit(np.log(nodes), np.log(seconds), 1)
    return float(slope)


def draw_times(records: Sequence[Record], path: Path) -> None:
    """Compile time over graph nodes, with the line of proportional growth."""
    from matplotlib.figure import Figure

    nodes, seconds = _points(records)
    if not nodes:
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(nodes, seconds, s=8, alpha=0.5)
    per_node = median(s / n for n, s in zip(nodes, seconds, strict=True))
    ends = np.array([min(nodes), max(nodes)])
    axes.plot(ends, per_node * ends, "k--", lw=1, label=f"{1000 * per_node:.1f} ms a node")
    axes.set(xscale="log", yscale="log", xlabel="graph nodes", ylabel="seconds to compile")
    axes.legend()
    figure.savefig(path, dpi=150)
