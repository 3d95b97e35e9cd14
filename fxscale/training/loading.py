"""Batches of images: which, at which size, augmented how; the same for any number of processes.

An epoch is one permutation of the training images, cut into global batches (one optimizer step
each), each of these cut into equal *micro-batches*, which are dealt out to the processes in turn.
What is left over at the end of an epoch is dropped, so that every process takes equally many steps:
nobody waits for one that has run out of images.

The size and the random draw of an image are part of the request for it. So one set of loader
workers serves all phases: nothing is restarted at a transition, and nothing is prefetched at a size
that is no longer wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fxscale.errors import DataError
from fxscale.training.pictures import Pictures
from fxscale.training.randomness import IMAGE, ORDER, derive, drawing

MOST_REPLACEMENTS = 100
"""Unreadable images in a row, one taken for another, before it is called an error."""


class Request(NamedTuple):
    """One image: its number, at which size, the seed of its augmentation (`None`: without any)."""

    number: int
    size: int
    draw: int | None


class Sample(NamedTuple):
    """One image, `None` where it could not be read, with what went wrong on the way to it."""

    image: Tensor | None
    label: int
    faults: tuple[str, ...]


class Batch(NamedTuple):
    """Images `(N, 3, S, S)`, labels `(N,)`, and the files that could not be read."""

    images: Tensor
    labels: Tensor
    faults: tuple[str, ...]


class Samples(Dataset[Sample]):
    """Answers requests. An unreadable image to train on is replaced by the next one."""

    def __init__(self, pictures: Pictures, *, replace: bool) -> None:
        self.pictures = pictures
        self.replace = replace
        self._transform = lru_cache(maxsize=8)(self._make_transform)

    def _make_transform(self, size: int, augment: bool) -> Callable[[Any], Tensor]:
        return self.pictures.transform(size, augment=augment)

    def __getstate__(self) -> dict[str, Any]:  # for workers that are spawned: caches stay here
        return {"pictures": self.pictures, "replace": self.replace}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["pictures"], replace=state["replace"])  # type: ignore[misc]  # the same class made again

    def __getitem__(self, request: Request) -> Sample:
        faults: list[str] = []
        index = request.number
        for _ in range(MOST_REPLACEMENTS):
            try:
                picture = self.pictures.read(index)
                break
            except Exception as error:  # decoders raise almost anything
                faults.append(f"{self.pictures.name(index)}: {type(error).__name__}: {error}")
            if not self.replace:
                return Sample(None, 0, tuple(faults))
            index = (index + 1) % len(self.pictures)
        else:
            return Sample(None, 0, tuple(faults))
        transform = self._transform(request.size, request.draw is not None)
        if request.draw is None:
            image = transform(picture)
        else:
            with drawing(request.draw):
                image = transform(picture)
        return Sample(image, self.pictures.label(index), tuple(faults))


def collate(samples: Sequence[Sample]) -> Batch:
    """Leaves out images that could not be read."""
    images = [sample.image for sample in samples if sample.image is not None]
    labels = [sample.label for sample in samples if sample.image is not None]
    return Batch(
        torch.stack(images) if images else torch.empty(0),
        torch.tensor(labels, dtype=torch.int64),
        tuple(fault for sample in samples for fault in sample.faults),
    )


class Requests:
    """A batch sampler whose batches are set before each pass."""

    def __init__(self) -> None:
        self.batches: Sequence[Callable[[], list[Request]]] = ()

    def __iter__(self) -> Iterator[list[Request]]:
        return (batch() for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Share(NamedTuple):
    """Which part of the work is this process's."""

    rank: int
    processes: int


class Loader:
    """Batches of one split for this process; its workers live as long as it does.

    **Arguments:**

    - `pictures`: the split.
    - `batch_size`: images per optimizer step, of all processes together.
    - `accumulate`: micro-batches per step and process.
    - `on_corrupt`: `"error"` raises `DataError`, naming the file; `"skip"` goes on without it.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        share: Share = Share(0, 1),  # noqa: B008  immutable
        workers: int = 0,
        on_corrupt: Literal["error", "skip"] = "error",
        pin_memory: bool = False,
        replace: bool = True,
    ) -> None:
        parts = accumulate * share.processes
        if batch_size % parts:
            raise DataError(
                f"a batch of {batch_size} images cannot be shared out to {share.processes} "
                f"processes of {accumulate} equal parts each: choose a multiple of {parts}"
            )
        self.pictures = pictures
        self.seed = seed
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.share = share
        self.on_corrupt = on_corrupt
        self._micro = batch_size // parts
        self._requests = Requests()
        self._loader: DataLoader[Any] = DataLoader(
            Samples(pictures, replace=replace and on_corrupt == "skip"),
            batch_sampler=self._requests,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return len(self.pictures) // self.batch_size

    @property
    def evaluation_batches(self) -> list[int]:
        """The different numbers of images in this process's batches of `evaluation`."""
        rank, processes = self.share
        whole, rest = divmod(len(range(rank, len(self.pictures), processes)), self._micro)
        return [self._micro] * (whole > 0) + [rest] * (rest > 0)

    def epoch(
        self, number: int, size: int, *, first: int = 0, last: int | None = None
    ) -> Iterator[Batch]:
        """Augmented micro-batches of the steps from `first` up to `last`, in order."""
        generator = torch.Generator().manual_seed(derive(self.seed, ORDER, number))
        order = torch.randperm(len(self.pictures), generator=generator)

        def batch(start: int) -> list[Request]:
            return [
                Request(index, size, derive(self.seed, IMAGE, number, index))
                for index in order[start : start + self._micro].tolist()
            ]

        rank, processes = self.share
        starts = [
            step * self.batch_size + (part * processes + rank) * self._micro
            for step in range(first, self.steps if last is None else min(last, self.steps))
            for part in range(self.accumulate)
        ]
        for found in self._pass([partial(batch, start) for start in starts]):
            if len(found.labels) < self._micro:
                raise DataError(
                    f"{MOST_REPLACEMENTS} images in a row cannot be read, the first "
                    f"{found.faults[0]}"
                )
            yield found

    def evaluation(self, size: int) -> Iterator[Batch]:
        """All images once, shared out; batches are as large as micro-batches, the last smaller."""
        indices = range(self.share.rank, len(self.pictures), self.share.processes)

        def batch(start: int) -> list[Request]:
            return [Request(index, size, None) for index in indices[start : start + self._micro]]

        return self._pass([partial(batch, i) for i in range(0, len(indices), self._micro)])

    def _pass(self, batches: Sequence[Callable[[], list[Request]]]) -> Iterator[Batch]:
        self._requests.batches = batches
        for batch in self._loader:
            if batch.faults and self.on_corrupt == "error":
                raise DataError(
                    f"an image cannot be read: {batch.faults[0]}. Replace or remove it, or go on "
                    f"without such images: on_corrupt='skip' (--on-corrupt skip)"
                )
            yield batch
