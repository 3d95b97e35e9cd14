"""Ways to go through the transition, each against the plain one, on the same seeds.

    python -m benchmarks.tiny_imagenet --data tiny-imagenet-40.tar.gz ...
    python -m benchmarks.transition_variants --data tiny-imagenet-40.tar.gz --transition 9

Goes on from the pre-train networks that `tiny_imagenet.py` left in `--checkpoints`, with that run's
own settings, and compares with its results in `--journal`. One thing differs from the plain
transition at a time:

- `momentum reset`: the target's optimizer starts empty;
- `warm-up`: the learning rate of the first epoch after the transition is a fifth;
- `raised rate`: the learning rate is doubled until its first drop;
- `ramp`: the target trains on images of a size in between for some epochs first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks._table import bullet_list, markdown_table, write_results
from benchmarks._tiny_imagenet_report import RunNames
from benchmarks.tiny_imagenet import (
    AUGMENTATION,
    Benchmark,
    Experiment,
    Journal,
    experiment_facts,
    experiment_parser,
)
from fxscale.errors import FxscaleError
from fxscale.training import ImageSet, Recipe, Run, Trainer

NAME = "transition_variants"
WARM_UP = 0.2
RAISED = 2.0
RAMP_EPOCHS = 4


@dataclass(frozen=True)
class FactoredRecipe(Recipe):
    """A recipe whose learning rate is multiplied by `factor` in the epochs `first` to `last`."""

    factor: float = 1.0
    first: int = 0
    last: int = 0

    def rate(self, epoch: int) -> float:
        rate = super().rate(epoch)
        return rate * self.factor if self.first <= epoch < self.last else rate


@dataclass(frozen=True)
class Tail:
    """What follows the transition after `epoch` epochs, for one seed."""

    images: ImageSet
    experiment: Experiment
    checkpoints: Path
    journal: Journal
    seed: int
    epoch: int

    def run(
        self, recipe: Recipe | None = None, *, reset: bool = False, ramp: int | None = None
    ) -> Run:
        """The transition with another recipe, an empty optimizer, or by way of `ramp` pixels."""
        experiment = self.experiment
        trainer = Trainer(
            self.images,
            recipe or experiment.recipe,
            seed=self.seed,
            augmentation=AUGMENTATION,
        )
        benchmark = Benchmark(self.images, experiment, self.journal, self.checkpoints)
        stage, records = benchmark.beginning(trainer, "resized", self.epoch)
        if reset:
            stage.optimizer.state.clear()
        size = ramp or experiment.target_size
        target = experiment.network(self.seed)
        stage, change = trainer.upscale(stage, target, size=size, epoch=self.epoch)
        if ramp:
            stop = min(self.epoch + RAMP_EPOCHS, experiment.recipe.epochs)
            records = [*records, *trainer.fit(stage, range(self.epoch, stop))]
            stage, _ = trainer.enlarge(stage, size=experiment.target_size, epoch=stop)
        epochs = range(len(records), experiment.recipe.epochs)
        return Run("", self.seed, (*records, *trainer.fit(stage, epochs)), change)

    def momentum_reset(self) -> Run:
        return self.run(reset=True)

    def warm_up(self) -> Run:
        return self.run(self._recipe(WARM_UP, self.epoch + 1))

    def raised_rate(self) -> Run:
        drops = [m for m in self.experiment.recipe.milestones if m > self.epoch]
        return self.run(self._recipe(RAISED, min(drops, default=self.experiment.recipe.epochs)))

    def ramp(self) -> Run:
        between = (self.experiment.pretrain_size + self.experiment.target_size) // 2
        return self.run(ramp=between // 2 * 2)

    def _recipe(self, factor: float, last: int) -> Recipe:
        recipe = asdict(self.experiment.recipe)
        return FactoredRecipe(**recipe, factor=factor, first=self.epoch, last=last)


VARIANTS: dict[str, Callable[[Tail], Run]] = {
    "momentum reset": Tail.momentum_reset,
    "warm-up": Tail.warm_up,
    "raised rate": Tail.raised_rate,
    "ramp": Tail.ramp,
}


def settings_of(journal: Path) -> Experiment:
    """The experiment that a journal of `tiny_imagenet.py` belongs to."""
    if not journal.exists():
        raise FxscaleError(f"{journal} does not exist. Run benchmarks.tiny_imagenet first")
    entries = json.loads(journal.read_text(encoding="utf-8").splitlines()[0])["settings"]
    recipe = entries.pop("recipe")
    recipe["milestones"] = tuple(recipe["milestones"])
    entries["widths"] = tuple(entries["widths"])
    return Experiment(recipe=Recipe(**recipe), transitions=(), **entries)


def report(
    plain: dict[int, Run], runs: dict[str, dict[int, Run]], facts: dict[str, str], epoch: int
) -> str:
    """One row a variant: final accuracy, and its difference from the plain transition's."""
    rows = []
    for name, of_seeds in {"plain": plain, **runs}.items():
        seeds = sorted(of_seeds.keys() & plain.keys())
        finals = [100 * of_seeds[s].records[-1].accuracy for s in seeds]
        gains = [
            final - 100 * plain[s].records[-1].accuracy
            for final, s in zip(finals, seeds, strict=True)
        ]
        gain = "" if of_seeds is plain else _spread(gains, sign="+")
        rows.append([name, str(len(seeds)), _spread(finals), gain])
    table = markdown_table(["variant", "seeds", "final accuracy, %", "to plain, points"], rows)
    return (
        f"# Ways through the transition\n\n{bullet_list(facts)}\n\n"
        f"Transition after epoch {epoch}. Accuracy on the test images after the last epoch; mean ± "
        "sample\nstandard deviation over the seeds, of the differences seed by seed in the last "
        f"column.\n\n{table}\n"
    )


def _spread(values: Sequence[float], sign: str = "") -> str:
    if len(values) < 2:
        return f"{mean(values):{sign}.1f}" if values else ""
    return f"{mean(values):{sign}.1f} ± {stdev(values):.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    experiment = replace(settings_of(options.journal), transitions=(options.transition,))
    images = experiment.images(options.data)
    journal = Journal(options.journal, experiment)
    finished = Journal(options.output / f"{NAME}.jsonl", experiment)
    plain = {
        seed: run
        for (name, seed), run in journal.runs.items()
        if name == RunNames.resized(options.transition)
    }
    for name in options.variants:
        for seed in sorted(plain):
            label = f"{name}@{options.transition}"
            if (label, seed) in finished.runs:
                continue
            tail = Tail(images, experiment, options.checkpoints, journal, seed, options.transition)
            run = replace(VARIANTS[name](tail), name=label)
            finished.add(run)
            print(f"{label}, seed {seed}: {100 * run.records[-1].accuracy:.1f} %", flush=True)

    runs: dict[str, dict[int, Run]] = {}
    for (label, seed), run in finished.runs.items():
        name, _, epoch = label.rpartition("@")
        if int(epoch) == options.transition:
            runs.setdefault(name, {})[seed] = run
    facts = experiment_facts(experiment, images, torch.device("cpu"))
    text = report(plain, runs, facts, options.transition)
    figures: dict[str, Any] = {
        "settings": facts,
        "experiment": experiment.to_dict(),
        "runs": [run.to_dict() for of_seeds in runs.values() for run in of_seeds.values()],
    }
    write_results(options.output, NAME, text, figures)
    print(f"\n{text}")


def _parser() -> argparse.ArgumentParser:
    parser = experiment_parser(__doc__)
    parser.add_argument(
        "--journal", type=Path, default=Path("benchmarks/results/tiny_imagenet.jsonl")
    )
    parser.add_argument("--transition", type=int, default=5, help="epochs before it (default 5)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    return parser


if __name__ == "__main__":
    main()
