"""Ways to go through the transition, each against the plain one, on the same seeds.

    python -m benchmarks.tiny_imagenet --data tiny-imagenet-40.tar.gz ...
    python -m benchmarks.transition_variants --data tiny-imagenet-40.tar.gz --transition 9

Goes on from the pre-train networks that `tiny_imagenet.py` left in `--checkpoints`, with that run's
own settings, and compares with its results in `--journal`. One thing differs from the plain
transition at a time:

- `momentum reset`: the target's optimizer starts empty;
- `warm-up`: the learning rate of the first epoch after the transition is a fifth;
- `raised rate`: the learning rate is doubled until its next drop; `lowered rate`: it is 0.3 of what
  is scheduled;
- `larger norms`: kernels that were enlarged get 1.5 times the norm that they had in the pre-train
  network. Behind BatchNorm that changes nothing but how far a step goes;
- `least squares`: kernels and momentum are enlarged by the map of `_least_squares_map.py`;
- `raised rate behind the drop`: after the first drop of the learning rate, where the paper finds
  that late transitions cannot make up any more (section 6), it goes back to its first value for
  `--high` epochs, then on as scheduled. Before the first drop there is nothing to raise;
- `ramp`: the target trains on images of a size in between for `--between` epochs first;
- `progressive resizing next`: the same, on images as small as the pre-train network's;
- `three stages`: a second pre-train network does, on the same images and for as long, and costs
  less. Where a kernel of 3 can only be 2 or 3, networks of two sizes would have the same kernels;
  what lies in between is one in which half of the layers have the target's (`half_kept`).

The last three train the target at its own size for one epoch at least. With `--peer`, those of the
learning rate go on from progressive resizing's small images instead.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

import fxscale
from benchmarks._least_squares_map import least_squares
from benchmarks._norms import with_norms
from benchmarks._recipes import FactoredRecipe, RaisedRecipe
from benchmarks._table import bullet_list, markdown_table, write_results
from benchmarks._tiny_imagenet_report import RunNames
from benchmarks._tiny_imagenet_runs import Course, Experiment, Journal
from benchmarks._tiny_imagenet_training import AUGMENTATION, Benchmark, combined
from benchmarks.kernel_maps import enlarged
from benchmarks.tiny_imagenet import experiment_facts, experiment_parser
from fxscale.errors import FxscaleError
from fxscale.training import ImageSet, Recipe, Run, SmallResNet, Stage, Trainer
from fxscale.training.loop import single_device
from fxscale.upscale import plan_of

NAME = "transition_variants"
WARM_UP = 0.2
RAISED = 2.0
LOWERED = 0.3
NORMS = 1.5
HIGH_EPOCHS = 3
BETWEEN_EPOCHS = 4
BEHIND_DROP = "raised rate behind the drop"


def size_between(experiment: Experiment) -> int:
    """Half way from the pre-train network's images to the target's, even."""
    return (experiment.pretrain_size + experiment.target_size) // 2 // 2 * 2


def half_kept(experiment: Experiment, target: nn.Module) -> fxscale.PretrainNetwork:
    """A pre-train network for `size_between` with the target's kernels in every other block.

    At 54 of 64 pixels a kernel of 3 should be 2.5 wide: half of the layers have 3, half 2, spread
    evenly over the depth, so that every feature map sees about that share of the image. Whole
    blocks, because two kernels of 2 in a row keep the grids aligned (padding 1, then 0) where a
    single one cannot; beginning with the first, so that of every width's two blocks it is the one
    with the stride that is kept, where kernels of 2 shift the grid. The stem is as in Table 1: 6 of
    7, which would be nearest, is even and would need operators that pad.
    """
    if not isinstance(target, SmallResNet):
        raise FxscaleError("three stages: the blocks of the small residual network are known alone")
    kept = tuple(f"layers.{number}.*" for number in range(0, len(target.layers), 2))
    return fxscale.downscale(
        target, size_between(experiment), target_size=experiment.target_size, keep=kept
    )


def with_empty_momentum(_: Stage, stage: Stage) -> None:
    stage.optimizer.state.clear()


def with_least_squares(pretrain: Stage, stage: Stage) -> None:
    """Kernels and momentum of the target, enlarged once more, by least squares."""
    plan = plan_of(pretrain.network)
    enlarge = partial(least_squares, ratio=stage.size / pretrain.size)
    state = pretrain.network.state_dict()
    stage.network.load_state_dict(enlarged(plan, state, enlarge))
    momenta = {
        name: pretrain.optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in pretrain.network.named_parameters()
    }
    momenta = enlarged(plan, state | momenta, enlarge)
    for name, parameter in stage.network.named_parameters():
        stage.optimizer.state[parameter]["momentum_buffer"].copy_(momenta[name])


@dataclass(frozen=True)
class Tail:
    """What follows the transition after `epoch` epochs, for one seed.

    With `peer`, what follows progressive resizing's change of size.
    """

    images: ImageSet
    experiment: Experiment
    checkpoints: Path
    journal: Journal
    seed: int
    epoch: int
    between: int = BETWEEN_EPOCHS
    high: int = HIGH_EPOCHS
    peer: bool = False

    def run(
        self,
        recipe: Recipe | None = None,
        *,
        adjust: Callable[[Stage, Stage], None] | None = None,
        by_way_of: Callable[[nn.Module], nn.Module] | None = None,
        between_size: int | None = None,
    ) -> Run:
        """The transition with another recipe, adjusted, or by way of another network.

        `adjust` changes the target's stage right after the transition; it is also given the
        pre-train network's. `by_way_of` makes the other network of the target; it trains on images
        of `between_size` (default: `size_between`) first.
        """
        experiment = self.experiment
        benchmark = Benchmark(self.images, experiment, self.journal, self.checkpoints)
        trainer = Trainer(
            benchmark.images,
            recipe or experiment.recipe,
            seed=self.seed,
            augmentation=AUGMENTATION,
            fabric=benchmark.fabric,
        )
        kind = "progressive" if self.peer else "resized"
        stage, records = benchmark.beginning(trainer, kind, self.epoch)
        target, size = experiment.network(self.seed), experiment.target_size
        if self.peer:
            stage, change = trainer.enlarge(stage, size=size, epoch=self.epoch)
            changes = [change]
        elif by_way_of is None:
            pretrain = stage
            stage, change = trainer.upscale(pretrain, target, size=size, epoch=self.epoch)
            changes = [change]
            if adjust is not None:
                adjust(pretrain, stage)
        else:
            between = by_way_of(target)
            stop = min(self.epoch + self.between, experiment.recipe.epochs - 1)
            stage, change = trainer.upscale(
                stage, between, size=between_size or size_between(experiment), epoch=self.epoch
            )
            stage.phase = "in between"
            records = [*records, *trainer.fit(stage, range(self.epoch, stop))]
            if between is target:
                stage, second = trainer.enlarge(stage, size=size, epoch=stop)
            else:
                stage, second = trainer.upscale(stage, target, size=size, epoch=stop)
            changes = [change, second]
        epochs = range(len(records), experiment.recipe.epochs)
        return Run("", self.seed, (*records, *trainer.fit(stage, epochs)), combined(changes))

    def momentum_reset(self) -> Run:
        return self.run(adjust=with_empty_momentum)

    def warm_up(self) -> Run:
        return self.run(self._recipe(WARM_UP, self.epoch + 1))

    def raised_rate(self) -> Run:
        return self.run(self._recipe(RAISED, self._next_drop()))

    def lowered_rate(self) -> Run:
        return self.run(self._recipe(LOWERED, self._next_drop()))

    def larger_norms(self) -> Run:
        return self.run(adjust=partial(with_norms, factor=NORMS))

    def least_squares(self) -> Run:
        return self.run(adjust=with_least_squares)

    def raised_behind_drop(self) -> Run:
        recipe = asdict(self.experiment.recipe)
        last = self.epoch + self.high
        return self.run(RaisedRecipe(**recipe, first=self.epoch, last=last))

    def ramp(self) -> Run:
        return self.run(by_way_of=lambda target: target)

    def progressive_next(self) -> Run:
        size = self.experiment.pretrain_size
        return self.run(by_way_of=lambda target: target, between_size=size)

    def three_stages(self) -> Run:
        return self.run(by_way_of=partial(half_kept, self.experiment))

    def _next_drop(self) -> int:
        recipe = self.experiment.recipe
        return min((m for m in recipe.milestones if m > self.epoch), default=recipe.epochs)

    def _recipe(self, factor: float, last: int) -> Recipe:
        recipe = asdict(self.experiment.recipe)
        return FactoredRecipe(**recipe, factor=factor, first=self.epoch, last=last)


VARIANTS: dict[str, Callable[[Tail], Run]] = {
    "momentum reset": Tail.momentum_reset,
    "warm-up": Tail.warm_up,
    "raised rate": Tail.raised_rate,
    "lowered rate": Tail.lowered_rate,
    "larger norms": Tail.larger_norms,
    "least squares": Tail.least_squares,
    BEHIND_DROP: Tail.raised_behind_drop,
    "ramp": Tail.ramp,
    "progressive resizing next": Tail.progressive_next,
    "three stages": Tail.three_stages,
}


_OF_THE_RATE = ("warm-up", "raised rate", "lowered rate", BEHIND_DROP)


def applicable(name: str, recipe: Recipe, epoch: int, *, peer: bool) -> bool:
    """Whether a variant differs from the plain change after `epoch` epochs."""
    if peer and name not in _OF_THE_RATE:
        return False
    return name != BEHIND_DROP or recipe.rate(epoch) < recipe.learning_rate


def settings_of(journal: Path) -> Experiment:
    """The experiment that a journal of `tiny_imagenet.py` belongs to."""
    if not journal.exists():
        raise FxscaleError(f"{journal} does not exist. Run benchmarks.tiny_imagenet first")
    entries = json.loads(journal.read_text(encoding="utf-8").splitlines()[0])["settings"]
    recipe = entries.pop("recipe")
    recipe["milestones"] = tuple(recipe["milestones"])
    entries["widths"] = tuple(entries["widths"])
    return Experiment(recipe=Recipe(**recipe), courses=(), **entries)


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
        times = [100 * of_seeds[s].seconds / plain[s].seconds for s in seeds]
        time = "" if of_seeds is plain else _spread(times)
        rows.append([name, str(len(seeds)), _spread(finals), gain, time])
    header = ["variant", "seeds", "final accuracy, %", "to plain, points", "time, % of plain"]
    table = markdown_table(header, rows)
    return (
        f"# Ways through the transition\n\n{bullet_list(facts)}\n\n"
        f"Change after epoch {epoch}. Accuracy on the test images after the last epoch; mean ± "
        "sample\nstandard deviation over the seeds, of the differences and ratios seed by seed in "
        f"the last\ncolumns. Time is that of the whole training, as measured.\n\n{table}\n"
    )


def _spread(values: Sequence[float], sign: str = "") -> str:
    if len(values) < 2:
        return f"{mean(values):{sign}.1f}" if values else ""
    return f"{mean(values):{sign}.1f} ± {stdev(values):.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    epoch, peer = options.transition, options.peer
    name = RunNames.progressive(epoch) if peer else RunNames.resized(epoch)
    course = Course(name, small=epoch) if peer else Course(name, epoch)
    experiment = replace(settings_of(options.journal), courses=(course,))
    images = experiment.images(options.data)
    journal = Journal(options.journal, experiment)
    finished = Journal(options.output / f"{NAME}.jsonl", experiment)
    plain = {seed: run for (of, seed), run in journal.runs.items() if of == course.name}
    for name in options.variants:
        if not applicable(name, experiment.recipe, epoch, peer=peer):
            print(f"{name}: the same as plain here")
            continue
        for seed in sorted(plain):
            epochs = options.high if name == BEHIND_DROP else options.between
            usual = HIGH_EPOCHS if name == BEHIND_DROP else BETWEEN_EPOCHS
            longer = f" for {epochs} epochs" if epochs != usual else ""
            of = " of progressive resizing" if peer else ""
            label = f"{name}{longer}{of}@{epoch}"
            if (label, seed) in finished.runs:
                continue
            tail = Tail(
                images,
                experiment,
                options.checkpoints,
                journal,
                seed,
                epoch,
                options.between,
                options.high,
                peer,
            )
            run = replace(VARIANTS[name](tail), name=label)
            finished.add(run)
            print(f"{label}, seed {seed}: {100 * run.records[-1].accuracy:.1f} %", flush=True)

    runs: dict[str, dict[int, Run]] = {}
    for (label, seed), run in finished.runs.items():
        name, _, at = label.rpartition("@")
        if int(at) == epoch:
            runs.setdefault(name, {})[seed] = run
    device = single_device(experiment.precision).device
    facts = experiment_facts(experiment, images, device)
    text = report(plain, runs, facts, epoch)
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
    parser.add_argument(
        "--between",
        type=int,
        default=BETWEEN_EPOCHS,
        help=f"epochs of what comes in between (default {BETWEEN_EPOCHS})",
    )
    parser.add_argument(
        "--high",
        type=int,
        default=HIGH_EPOCHS,
        help=f"epochs of the first learning rate behind its drop (default {HIGH_EPOCHS})",
    )
    parser.add_argument(
        "--peer", action="store_true", help="go on from progressive resizing, with another rate"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    return parser


if __name__ == "__main__":
    main()
