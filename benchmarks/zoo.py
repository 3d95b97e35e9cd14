"""Any CNN: every model of torchvision and timm through the compiler, and what came of it.

    python -m benchmarks.zoo                       # everything
    python -m benchmarks.zoo --sets torchvision --match 'resnet*'
    python -m benchmarks.zoo --sets smp monai pytorchcv    # see `_zoo_libraries.py`

Each model is checked in a worker process (see `_zoo_check.py`) and becomes one line of
`OUTPUT/zoo.jsonl`; a model with a line is not checked again: stop the benchmark and start it to go
on. `--again wrong refused` forgets the lines of those statuses first. At the end a table by family
(`zoo.md`, `zoo.json`) and the compile time over the size of the graph (`zoo.png`) are written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path

import torch
from pebble import ProcessFuture, ProcessPool
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks._env import environment
from benchmarks._table import write_results
from benchmarks._zoo_check import Extent, Record, check
from benchmarks._zoo_entries import SETS, names
from benchmarks._zoo_libraries import LIBRARIES
from benchmarks._zoo_report import draw_times, report, summary

NAME = "zoo"
TIMEOUT = 900.0  # seconds a model
MODELS_PER_WORKER = 40  # memory that libraries keep is given back with the process


class Journal:
    """Checked models, one JSON line each."""

    def __init__(self, path: Path, again: Sequence[str]) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            found = [json.loads(line) for line in lines]
            self.records = {r["name"]: r for r in found if r["status"] not in again}
            if len(self.records) < len(found):
                text = "".join(json.dumps(r) + "\n" for r in self.records.values())
                path.write_text(text, encoding="utf-8")

    def add(self, record: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.records[record["name"]] = record


def checked(todo: Sequence[str], extent: Extent, workers: int) -> Iterator[Record]:
    """The record of each model, in the order in which they are done.

    Two of the largest side by side may need more memory than there is, and more time than is given:
    a model whose worker was killed is checked again when all others are done, by itself.
    """
    context = get_context("spawn")
    lost = []
    with ProcessPool(workers, max_tasks=MODELS_PER_WORKER, context=context) as pool:
        # Few at a time: the time limit of a model starts when a worker takes it.
        waiting = list(reversed(todo))
        running: dict[ProcessFuture, str] = {}
        while waiting or running:
            while waiting and len(running) < 2 * workers:
                name = waiting.pop()
                running[pool.schedule(check, args=[name, extent], timeout=TIMEOUT)] = name
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                assert isinstance(future, ProcessFuture)
                name = running.pop(future)
                error = future.exception()
                if error is None:
                    yield future.result()
                elif workers > 1:
                    lost.append(name)
                else:
                    yield _lost(name, error)
    if lost:
        yield from checked(lost, extent, workers=1)


def _lost(name: str, error: BaseException) -> Record:
    """The record of a model whose worker was killed, for its time or by the system."""
    reason = f"{type(error).__name__}: {error}"
    return {"name": name, "set": name.partition("/")[0], "status": "wrong", "reason": reason}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    journal = Journal(options.output / f"{NAME}.jsonl", options.again)
    chosen = [n for n in names(tuple(options.sets)) if fnmatch(n.partition("/")[2], options.match)]
    chosen = chosen[options.first :: options.every]
    todo = [name for name in chosen if name not in journal.records]
    columns = (TextColumn("{task.description:44s}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=len(chosen), completed=len(chosen) - len(todo))
        extent = Extent(convolving=options.convolving, quick=options.quick)
        for record in checked(todo, extent, options.workers):
            journal.add(record)
            progress.update(task, advance=1, description=f"{record['name']} {record['status']}")
            if record["status"] not in ("ok", "left out"):
                progress.console.print(
                    f"{record['name']}: {record['status']}: {record.get('reason', '')}"[:400],
                    highlight=False,
                    markup=False,
                )
    records = [journal.records[name] for name in chosen]
    records = [record for record in records if record["status"] != "left out"]
    facts = environment(torch.device("cpu"))
    text = report(records, facts)
    write_results(options.output, NAME, text, {"settings": facts, "summary": summary(records)})
    draw_times(records, options.output / f"{NAME}.png")
    print(f"\n{text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=[*SETS, *LIBRARIES], default=list(SETS))
    parser.add_argument("--match", default="*", help="pattern of names, without the set")
    parser.add_argument(
        "--convolving", action="store_true", help="leave out models with less than 3 convolutions"
    )
    parser.add_argument(
        "--quick", action="store_true", help="compile and compare outputs on the meta device only"
    )
    parser.add_argument("--every", type=int, default=1, help="only every n-th model")
    parser.add_argument("--first", type=int, default=0, help="the first of those")
    parser.add_argument("--again", nargs="*", default=[], help="statuses to check again")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    return parser


if __name__ == "__main__":
    main()
