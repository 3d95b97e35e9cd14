"""`train`: a training run from its settings, through all phases, resumable from any step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from fxscale.errors import CheckpointError, DataError, DivergenceError
from fxscale.plan_layout import layout_of
from fxscale.pretrain_network import PretrainNetwork
from fxscale.schedules import Epoch
from fxscale.training import models
from fxscale.training.change import change_phase
from fxscale.training.checkpoint import Checkpoint
from fxscale.training.devices import gathered, launch, now, reproducible, total
from fxscale.training.loading import Batch, Loader, Share
from fxscale.training.observers import JsonLines, Plan, Several, StepReport, TrainingObserver
from fxscale.training.phase import Phase, compile_now, optimizer_for, place, set_up
from fxscale.training.pictures import Source, open_source
from fxscale.training.progress import EpochResult, PhaseChange, Progress
from fxscale.training.settings import Settings
from fxscale.training.steps import Stepper
from fxscale.training.store import Store
from fxscale.weights import save_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves behind.

    **Attributes:**

    - `epochs`, `changes`: all of them, those before a resumption included.
    - `compile_seconds`: `torch.compile` of the first network; 0 without it.
    - `network`: the last phase's; the moving average's weights where there is one.
    - `folder`: with `weights.safetensors`, `metrics.jsonl` and `checkpoints/`.
    """

    epochs: tuple[EpochResult, ...]
    changes: tuple[PhaseChange, ...]
    network: nn.Module
    folder: Path
    compile_seconds: float = 0.0

    @property
    def best(self) -> EpochResult:
        """The first epoch of highest accuracy, of those of the network that the run ended with."""
        last = [result for result in self.epochs if result.phase == self.epochs[-1].phase]
        return max(last, key=lambda result: result.accuracy)

    @property
    def seconds(self) -> float:
        """Of training, transitions and `torch.compile`, without evaluations."""
        training = sum(epoch.seconds for epoch in self.epochs)
        return self.compile_seconds + training + sum(c.seconds for c in self.changes)


def train(
    settings: Settings,
    output: str | Path,
    *,
    resume: bool = False,
    source: Source | None = None,
    factory: models.ModelFactory | None = None,
    observers: Sequence[TrainingObserver] = (),
    accelerator: str = "auto",
    fabric: Fabric | None = None,
) -> TrainingResult:
    """Trains the pre-train networks, then the target, by a schedule; writes all to `output`.

    **Arguments:**

    - `output`: a folder, made if it is not there. Several machines must share it.
    - `resume`: go on from the last checkpoint in `output`, if there is one. On one CPU process the
      result is that of an uninterrupted run, bit for bit.
    - `source`, `factory`: images and target network, in place of those that `settings` name.
    - `observers`: told of every step, epoch and transition, on the first process.
    - `accelerator`: `"auto"`, `"cpu"` or `"cuda"`; `fabric`: a launched `Fabric`, in its place.

    **Raises:**

    - `DataError`: images are missing or unreadable. `CheckpointError`: one cannot be written, is
      damaged or of another run, or `output` holds a run and `resume` is not set.
    - `DivergenceError`: the loss is not finite; names the last good checkpoint.
    - `FxscaleError`: whatever else the compiler, the transition or the schedule refuse.
    """
    store = Store(Path(output))
    if not resume:
        store.refuse_overwriting()
    source = source or open_source(settings.data)
    factory = factory or models.named_model(settings.model)
    fabric = fabric or launch(settings, accelerator)
    told = [JsonLines(store.metrics), *observers] if fabric.is_global_zero else []
    with reproducible(settings):
        run = _Run(settings, store, source, factory, Several(told), fabric)
        try:
            return run.train(resume=resume)
        finally:
            run.observer.closed()


class _Run:
    """The state of a run between its steps."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        source: Source,
        factory: models.ModelFactory,
        observer: TrainingObserver,
        fabric: Fabric,
    ) -> None:
        self.settings = settings
        self.store = store
        self.source = source
        self.observer = observer
        self.fabric = fabric
        self.schedule = settings.schedule
        self.progress = Progress()
        networks = models.networks(settings, factory, len(source.classes))
        self.costs = models.costs(networks, settings)
        self.networks = dict(enumerate(networks))
        """Of the phases that are not over yet."""
        self.stepper = Stepper(fabric, settings, len(source.classes))
        share = Share(fabric.global_rank, fabric.world_size)
        self.train_loader, self.test_loader = (
            Loader(
                pictures,
                seed=settings.seed,
                batch_size=settings.batch_size,
                accumulate=settings.accumulate,
                share=share,
                workers=settings.workers,
                on_corrupt=settings.on_corrupt,
                pin_memory=fabric.device.type == "cuda",
                replace=training,
            )
            for pictures, training in ((source.train, True), (source.test, False))
        )
        self._faults: list[str] = []
        if self.train_loader.steps < 1:
            raise DataError(
                f"{source.name}: {len(source.train)} images to train on are fewer than a batch of "
                f"{settings.batch_size}"
            )

    def train(self, *, resume: bool) -> TrainingResult:
        if self.fabric.is_global_zero:
            self.store.prepare()
        self.fabric.barrier()
        checkpoint = (
            self.store.load(self.settings, self.source.classes, self.networks) if resume else None
        )
        self._agree(checkpoint)
        if checkpoint is not None:
            self.progress = Progress.from_dict(checkpoint.document["progress"])
        self.phase, compiling = self._enter(
            0 if checkpoint is None else checkpoint.document["phase"]
        )
        if checkpoint is None:
            self.progress.compile_seconds = compiling
        else:
            self.phase.load(checkpoint)
        self.observer.started(
            Plan(
                self._outlook(),
                self.train_loader.steps,
                self.settings.batch_size,
                self.costs,
                self.settings.sizes,
                len(self.settings.pretrain_sizes),
            ),
            self.progress,
        )
        if self.settings.compile:
            self.observer.compiled(self.phase.size, compiling)
        while epoch := self.schedule.next_epoch(self.progress.accuracies):
            if epoch.phase != self.phase.number:
                self._change(epoch)
            self._train_epoch(epoch)
            self._finish_epoch(epoch)
        return self._finish()

    def _agree(self, checkpoint: Checkpoint | None) -> None:
        """All processes begin at one place: on several machines they must share the folder."""
        mine = "" if checkpoint is None else str(checkpoint.document["progress"]["steps"])
        found = set(gathered(self.fabric, mine))
        if len(found) > 1:
            raise CheckpointError(
                f"the processes find different checkpoints in {self.store.folder} (at steps "
                f"{sorted(found)}): it must be one folder that all machines share"
            )

    def _enter(self, number: int) -> tuple[Phase, float]:
        """A phase that no transition leads to, and the seconds that `torch.compile` took."""
        network = place(self.networks[number], self.fabric, self.settings)
        optimizer = optimizer_for(network, self.settings)
        phase = set_up(number, network, optimizer, self.fabric, self.settings)
        batches = self.test_loader.evaluation_batches
        return phase, compile_now(phase, self.fabric, self.settings, self.stepper.loss, batches)

    def _change(self, epoch: Epoch) -> None:
        before = self.phase.number
        self.phase, change = change_phase(
            self.phase,
            epoch.phase,
            self.networks[epoch.phase],
            epoch.number,
            before=self.progress.accuracies[-1],
            fabric=self.fabric,
            settings=self.settings,
            train=self.train_loader,
            test=self.test_loader,
            stepper=self.stepper,
        )
        del self.networks[before]  # its memory is the larger network's now
        self.progress.changes.append(change)
        self.observer.change(change)

    def _train_epoch(self, epoch: Epoch) -> None:
        progress, every = self.progress, self.settings.log_every
        for group in self.phase.optimizer.param_groups:
            group["weight_decay"] = epoch.weight_decay
        self.phase.wrapped.train()
        window = torch.tensor(progress.pending, device=self.fabric.device)
        mark, marked = now(self.fabric), progress.step
        batches = self.train_loader.epoch(epoch.number, self.phase.size, first=progress.step)
        for parts in _groups(batches, self.settings.accumulate):
            self._faults += [fault for batch in parts for fault in batch.faults]
            rate = epoch.rate(progress.step, self.train_loader.steps)
            for group in self.phase.optimizer.param_groups:
                group["lr"] = rate
            window += self.stepper.step(self.phase, parts, epoch.number, progress.step)
            progress.step += 1
            progress.steps += 1
            self.observer.step()
            last = progress.step == self.train_loader.steps
            report = last or progress.step % every == 0
            save = not last and self._save_at_step()
            if not (report or save):
                continue
            loss = float(total(self.fabric, window)) / self.fabric.world_size
            self._check(loss, epoch)
            seconds = now(self.fabric) - mark
            progress.seconds += seconds
            if report:
                progress.loss += loss
                window.zero_()
                pace = (progress.step - marked) * self.settings.batch_size / seconds
                steps = progress.step % every or every
                self._report(epoch, rate, loss / min(steps, progress.step), pace)
            progress.pending = 0.0 if report else loss
            self._tell_faults()
            if save:
                self._save(best=False)
            mark, marked = now(self.fabric), progress.step

    def _report(self, epoch: Epoch, rate: float, loss: float, images_per_second: float) -> None:
        self.observer.report(
            StepReport(
                epoch=epoch.number + 1,
                step=self.progress.step,
                steps=self.progress.steps,
                phase=self.phase.number,
                size=self.phase.size,
                loss=loss,
                learning_rate=rate,
                images_per_second=images_per_second,
            )
        )

    def _tell_faults(self) -> None:
        """Unreadable images since the last time, those of all processes."""
        count = int(total(self.fabric, torch.tensor(len(self._faults), device=self.fabric.device)))
        if count:
            faults = [
                f
                for told in gathered(self.fabric, json.dumps(self._faults))
                for f in json.loads(told)
            ]
            self.progress.unreadable += count
            self.observer.unreadable(faults)
            self._faults = []

    def _finish_epoch(self, epoch: Epoch) -> None:
        progress, steps = self.progress, self.train_loader.steps
        batches = self.test_loader.evaluation(self.phase.size)
        accuracy, test_loss, self._faults = self.stepper.evaluate(self.phase, batches)
        self._check(test_loss, epoch)
        self._tell_faults()
        progress.finish(
            EpochResult(
                epoch=epoch.number + 1,
                phase=epoch.phase,
                size=self.phase.size,
                learning_rate=epoch.learning_rate,
                weight_decay=epoch.weight_decay,
                extra=epoch.extra,
                train_loss=progress.loss / steps,
                test_loss=test_loss,
                accuracy=accuracy,
                seconds=progress.seconds,
                images_per_second=steps * self.settings.batch_size / progress.seconds,
                unreadable=progress.unreadable,
            )
        )
        outlook = self._outlook()
        self.observer.epoch(progress.results[-1], outlook)
        best = progress.best is progress.results[-1]
        coming = outlook[0] if outlook else None
        # Before a transition in any case, so that a crash in it costs nothing but the transition.
        due = coming is None or coming.resize or self._save_after_epoch()
        if best or due:
            self._save(best=best)

    def _outlook(self) -> list[Epoch]:
        return self.schedule.outlook(self.progress.accuracies)

    def _save_at_step(self) -> bool:
        interval = self.settings.interval
        return interval.unit == "steps" and self.progress.steps % interval.count == 0

    def _save_after_epoch(self) -> bool:
        interval = self.settings.interval
        return interval.unit == "epochs" and len(self.progress.results) % interval.count == 0

    def _save(self, *, best: bool) -> None:
        if self.fabric.is_global_zero:
            tensors, document = self.phase.contents()
            if not all(bool(torch.isfinite(p).all()) for p in self.phase.network.parameters()):
                raise DivergenceError(self._diverged("the network holds NaN or infinite weights"))
            document |= {
                "settings": self.settings.to_dict(),
                "classes": list(self.source.classes),
                "layout": layout_of(self.phase.network),
                "progress": self.progress.to_dict(),
            }
            self.store.save(Checkpoint(tensors, document), best=best)
            self.observer.checkpoint(self.store.last)

    def _check(self, loss: float, epoch: Epoch) -> None:
        if not isfinite(loss):
            what = f"the loss is {loss} in epoch {epoch.number + 1}, step {self.progress.step}"
            raise DivergenceError(self._diverged(what))

    def _diverged(self, what: str) -> str:
        last = self.store.last
        good = f"The last good checkpoint is {last}" if last.exists() else "There is no checkpoint"
        return (
            f"{what}, so training was stopped. {good}. Lower the learning rate, or clip gradients "
            f"(--clip-norm), in a run with another --output"
        )

    def _finish(self) -> TrainingResult:
        network = self.phase.result
        if self.fabric.is_global_zero:
            plan = network.plan if isinstance(network, PretrainNetwork) else None
            save_weights(self.store.weights, network.state_dict(), plan)
        self.fabric.barrier()
        return TrainingResult(
            tuple(self.progress.results),
            tuple(self.progress.changes),
            network,
            self.store.folder,
            self.progress.compile_seconds,
        )


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group
