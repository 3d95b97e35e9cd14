"""A bar on stderr over the steps of a command, where that is a terminal; it goes when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fxscale.passes.pipeline import Timings

Result = TypeVar("Result")
Item = TypeVar("Item")


class Steps:
    """Called with the name of each step before it begins."""

    def __init__(self, bar: Progress, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total)
        self._begun = 0

    def __call__(self, step: str) -> None:
        self._bar.update(self._task, description=step, completed=self._begun)
        self._begun += 1


@contextmanager
def steps(total: int | None, *, quiet: bool = False) -> Iterator[Steps]:
    """Show a bar over `total` steps while the block runs; `None` for a single one, which pulses."""
    console = Console(stderr=True, quiet=quiet)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        yield Steps(bar, total)


def tracked(title: str, *, quiet: bool = False) -> Callable[[Sequence[Item]], Iterator[Item]]:
    """For a loop: a bar over its items."""

    def track(items: Sequence[Item]) -> Iterator[Item]:
        with steps(len(items), quiet=quiet) as shown:
            for item in items:
                shown(title)
                yield item

    return track


class ShownPasses(Timings):
    """Passes of the compiler, each a step."""

    COUNT = 10

    def __init__(self, shown: Steps) -> None:
        super().__init__()
        self._shown = shown

    def run(
        self, name: str, function: Callable[..., Result], *args: object, **kwargs: object
    ) -> Result:
        self._shown(name)
        return super().run(name, function, *args, **kwargs)
