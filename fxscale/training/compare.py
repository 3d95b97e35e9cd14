"""`compare`: one network trained in several ways with the same seeds, run by run.

The ways of the paper's Tables 2 to 4: the target network alone, the pre-train network alone, and
the transition after several numbers of epochs; and progressive resizing, which trains the unchanged
network on small images first, and which any other method has to beat.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fxscale.errors import CheckpointError, FxscaleError, SizeError
from fxscale.files import written_whole
from fxscale.pretrain_network import PretrainNetwork
from fxscale.training import models
from fxscale.training.devices import gpu_name, launch
from fxscale.training.history import History
from fxscale.training.observers import TrainingObserver
from fxscale.training.pictures import Source, open_source
from fxscale.training.run import train
from fxscale.training.settings import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Kind = Literal["target", "pretrain", "progressive", "resized"]


@dataclass(frozen=True)
class Variant:
    """One way to train.

    **Attributes:**

    - `kind`: what is done; `rule`: when to go over to the next network, empty if never; of the
      target alone how many epochs it has, empty if as many as the others.
    - `settings`: of its first run; the others differ in the seed alone.
    - `key`: names its folder: `"target"`, `"resized-28"`.
    """

    kind: Kind
    rule: str
    settings: Settings

    @property
    def key(self) -> str:
        return f"{self.kind}-{self.rule.replace(',', '-')}" if self.rule else self.kind

    @property
    def when(self) -> str:
        """The rule in words."""
        if self.kind == "target" and self.rule:
            return f"for {self.rule} epochs"
        named = {"": "", "auto": "before the first drop", "plateau": "on a plateau"}
        return named.get(self.rule, f"after epoch {' and '.join(self.rule.split(','))}")

    @property
    def name(self) -> str:
        """Kind and rule in words."""
        return f"{_NAMES[self.kind]} {self.when}".strip()


_NAMES: dict[Kind, str] = {
    "target": "target network alone",
    "pretrain": "pre-train network alone",
    "progressive": "progressive resizing",
    "resized": "pre-train network, resized",
}


@dataclass(frozen=True)
class Comparison:
    """Variants, the target alone first, each with one history per seed, in the same order.

    The first is what the others are compared with.

    `remarks` say why variants that were chosen are not among them, and which have a head that was
    resized. `gpu` names the device that trained them, `None` where it was a CPU.
    """

    variants: tuple[Variant, ...]
    histories: tuple[tuple[History, ...], ...]
    data: str
    remarks: tuple[str, ...] = ()
    gpu: str | None = None

    @property
    def target(self) -> tuple[History, ...]:
        """Of the first variant, the target alone."""
        return self.histories[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(history.seed for history in self.target)


def variants(
    settings: Settings,
    resize_at: Sequence[str],
    progressive_at: Sequence[str] | None = None,
    target_lengths: Sequence[tuple[int, tuple[int, ...]]] = (),
) -> tuple[Variant, ...]:
    """The runs to compare.

    **Arguments:**

    - `settings`: of the runs with a transition; its own `resize_at` is not used.
    - `resize_at`: when to go over to the target, one variant each, as `Settings.resize_at`.
    - `progressive_at`: the same for progressive resizing, none if it is empty; by default the first
      of `resize_at`, or its last epochs where the target trains on small images after it, too.
    - `target_lengths`: epochs and milestones of the target alone, where they are not those of
      `settings`: small networks may have more epochs and need less time. Of several, one variant
      each, the first is what all others are compared with.

    **Raises:** `FxscaleError` where there is no pre-train size, nothing to resize at, or a rule
    does not fit the schedule, or `target_lengths` contradict a preset.
    """
    if not settings.pretrain_sizes:
        raise FxscaleError(
            "nothing to compare with the target alone: expected at least one pre-train size"
        )
    if not resize_at:
        raise FxscaleError("no transition to compare: expected at least one epoch to resize at")
    if progressive_at is None:
        phases = len(settings.progressive_sizes or settings.pretrain_sizes)
        progressive_at = [",".join(rule.split(",")[-phases:]) for rule in resize_at[:1]]
    if "never" in (*resize_at, *progressive_at):
        raise FxscaleError(
            "nothing is resized at 'never': the pre-train network alone is compared in any case. "
            "Give epochs to resize at"
        )
    lengths = dict(target_lengths)
    for epochs, milestones in target_lengths:
        if lengths[epochs] != milestones:
            raise FxscaleError(
                f"the target alone for {epochs} epochs twice, with other drops: give one"
            )
    if lengths and settings.preset is not None:
        raise FxscaleError(
            f"the preset {settings.preset!r} has epochs of its own: the target alone can have "
            "others only without it"
        )
    alone = replace(
        settings,
        pretrain_sizes=(),
        progressive_sizes=(),
        keep=(),
        resize_at="auto",
        extra_training=0,
        raised_epochs=0,
    )
    resizing = replace(
        settings,
        pretrain_sizes=(),
        progressive_sizes=settings.progressive_sizes or settings.pretrain_sizes,
        keep=(),
        resize_at="never",  # until each variant says when
    )
    small = replace(settings, resize_at="never", extra_training=0)
    targets = [
        Variant("target", str(epochs), replace(alone, epochs=epochs, milestones=milestones))
        for epochs, milestones in lengths.items()
    ]
    return (
        *(targets or [Variant("target", "", alone)]),
        Variant("pretrain", "", small),
        *(
            Variant("progressive", rule, replace(resizing, resize_at=rule))
            for rule in dict.fromkeys(progressive_at)
        ),
        *(
            Variant("resized", rule, replace(settings, resize_at=rule))
            for rule in dict.fromkeys(resize_at)
        ),
    )


def compare(
    chosen: Sequence[Variant],
    output: str | Path,
    *,
    seeds: int = 1,
    resume: bool = False,
    source: Source | None = None,
    factory: models.ModelFactory | None = None,
    observers: Callable[[str], Sequence[TrainingObserver]] = lambda title: (),
    note: Callable[[str], object] = lambda text: None,
    accelerator: str = "auto",
    fabric: Fabric | None = None,
) -> Comparison:
    """Trains every variant with every seed, in folders under `output`.

    Every run can be resumed as `train` can, and a finished one is not repeated: to add a
    transition epoch or a seed to a comparison, call this again with `resume`.

    A network with a fully connected head of fixed size, unchanged, cannot be resized progressively:
    its head is resized (`models.resized_progressively`), or where that fails, too, such variants
    are left out. The comparison says so.

    **Arguments:**

    - `chosen`: what `variants` returned.
    - `output`: a folder; run by run `runs/KEY/seed-N/`, as `train` fills it, and `history.json`.
    - `seeds`: how many; they count up from that of the settings.
    - `resume`: go on with the runs that are there.
    - `observers`: those of a run, from its title.
    - `note`: told the remarks at the beginning.
    - `source`, `factory`, `accelerator`, `fabric`: as for `train`.

    **Raises:** what `train` raises; `FxscaleError` where one of the variants cannot be compiled,
    before anything is trained; `CheckpointError` where `output` holds runs and `resume` is not set.
    """
    if seeds < 1:
        raise FxscaleError(f"a comparison needs at least 1 seed; found {seeds}")
    runs = Path(output) / "runs"
    if not resume and runs.exists():
        raise CheckpointError(
            f"{output} holds a comparison already: go on with it (--resume), or give another "
            f"--output"
        )
    settings = chosen[0].settings
    source = source or open_source(settings.data)
    factory = factory or models.named_model(settings.model)
    chosen, remarks = _examined(chosen, factory, len(source.classes))
    for remark in remarks:
        note(remark)
    fabric = fabric or launch(settings, accelerator)
    histories: dict[str, list[History]] = {variant.key: [] for variant in chosen}
    # All variants of a seed before the next seed: what is finished early is a comparison, too.
    for seed in range(settings.seed, settings.seed + seeds):
        for variant in chosen:
            folder = runs / variant.key / f"seed-{seed}"
            seeded = replace(variant.settings, seed=seed)
            history = _finished(folder, seeded)
            if history is None:
                result = train(
                    seeded,
                    folder,
                    resume=True,
                    source=source,
                    factory=factory,
                    observers=observers(f"seed {seed} · {variant.name}"),
                    fabric=fabric,
                )
                history = History(seed, result.epochs, result.changes, result.compile_seconds)
                if fabric.is_global_zero:
                    _write(folder, seeded, history)
            histories[variant.key].append(history)
    return Comparison(
        chosen,
        tuple(map(tuple, histories.values())),
        source.name,
        remarks,
        gpu_name(fabric),
    )


def _examined(
    chosen: Sequence[Variant], factory: models.ModelFactory, classes: int
) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """The variants that are possible, and remarks on the others and on resized heads.

    Raises `FxscaleError` where one is not, unless it is one of progressive resizing.
    """
    possible, remarks = [], []
    for variant in chosen:
        try:
            networks = models.networks(variant.settings, factory, classes)
        except FxscaleError as error:
            if not (variant.kind == "progressive" and isinstance(error, SizeError)):
                raise FxscaleError(f"{variant.name}: {error}") from error
            remarks.append(f"left out: {error}")
            continue
        possible.append(variant)
        if variant.kind == "progressive" and isinstance(networks[0], PretrainNetwork):
            remarks.append(
                f"progressive resizing: {type(networks[-1]).__name__} takes images of one size, so "
                f"that its fully connected head is resized with them"
            )
    return tuple(possible), tuple(dict.fromkeys(remarks))


def _finished(folder: Path, settings: Settings) -> History | None:
    """The history of the run in `folder`, `None` where it is not over.

    Raises `CheckpointError` where it is of a run with other settings, or damaged.
    """
    path = folder / "history.json"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        found, history = entry["settings"], History.from_dict(entry["history"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error!r}): remove it, and its run goes on from its checkpoint"
        ) from error
    differing = settings.differing(found)
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{path} is of a run with other settings: {name} {found.get(name)!r}, not "
            f"{settings.to_dict().get(name)!r}. Resume with those, or give another --output"
        )
    return history


def _write(folder: Path, settings: Settings, history: History) -> None:
    content = {"settings": settings.to_dict(), "history": history.to_dict()}
    with written_whole(folder / "history.json") as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
