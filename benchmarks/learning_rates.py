"""What a schedule of sizes is worth at each learning rate, of which the best counts.

    python -m benchmarks.learning_rates --data tiny-imagenet-40.tar.gz --ramps 2,8,46,11

Enlarged kernels have a smaller norm, so that behind BatchNorm the same learning rate takes larger
steps (`_norms.py`): a schedule with a transition trains at a higher rate than it says. At a rate
that is too low that alone would be a gain. So every run is made at each of `--rates`, with the
options of `tiny_imagenet` otherwise:

1. the target network alone;
2. each of `--ramps` `A,B,PX,C`, A at least 1;
3. the same from progressive resizing, that is without small kernels;

and with `--norms`

4. the same as 2, enlarged kernels given the norms of the pre-train network's;
5. the same as 3, the kernels that have smaller ones in the pre-train network divided by what 2
   divides them by, after the same epoch: larger steps without small kernels.

Finished runs are kept in `OUTPUT/RATE/*.jsonl` and are not made again; the first three are those of
`tiny_imagenet --output OUTPUT/RATE`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import mean

import torch

from benchmarks import tiny_imagenet
from benchmarks._norms import NormsDivided, NormsKept
from benchmarks._table import bullet_list, markdown_table, write_results
from benchmarks._tiny_imagenet_report import RunNames, mean_computed_seconds
from benchmarks._tiny_imagenet_runs import Course, Experiment, Journal
from benchmarks._tiny_imagenet_training import Benchmark, step_times
from benchmarks.tiny_imagenet import experiment_facts, experiment_of
from fxscale.errors import FxscaleError
from fxscale.training import Run, Trainer
from fxscale.training.loop import single_device
from fxscale.training.runs import percent

NAME = "learning_rates"
DIVISOR = 1.56
"""What enlarging trained kernels from 2 to 3 divides their norms by, in all layers alike."""
EXPLANATION = """\
Accuracy on the test images after the last epoch, mean ± sample standard deviation over the seeds;
bold at the rate where it is highest, which the last two columns are about: points to the target
alone at its own best rate, and training time saved at median step times, measured taking turns."""


@dataclass(frozen=True)
class Contender:
    """A row of the table: a course, the trainer it is run by, and the journal of its runs."""

    name: str
    course: Course
    trainer: Callable[..., Trainer] = Trainer
    journal: str = tiny_imagenet.NAME


def contenders(
    experiment: Experiment, ramps: Sequence[tuple[int, int, int, int]], *, norms: bool
) -> list[Contender]:
    found = [Contender(RunNames.TARGET, Course(RunNames.TARGET))]
    for after, small, size, last in ramps:
        if not after:
            raise FxscaleError("--ramps without small kernels are made by themselves: give A >= 1")
        ours = Course(RunNames.ramp(after, small, size, last), after, last, (small, size))
        peer = Course(RunNames.ramp(0, small, size, last), 0, last, (small, size))
        found += [Contender(ours.name, ours), Contender(peer.name, peer)]
        if norms:
            found += with_other_norms(experiment, ours, peer)
    return found


def with_other_norms(experiment: Experiment, ours: Course, peer: Course) -> list[Contender]:
    target = experiment.network(0)
    pretrain = dict(experiment.pretrain_network(target).named_parameters())
    names = [name for name, w in target.named_parameters() if w.shape != pretrain[name].shape]
    after = ours.pretrain
    divided = partial(NormsDivided, names=names, divisor=DIVISOR, after=after)
    return [
        Contender(f"{ours.name}, norms kept", ours, NormsKept, "norms_kept"),
        Contender(f"{peer.name}, norms divided", peer, divided, f"norms_divided_{after}"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.graphed:
        raise FxscaleError("--graphed: kernels that are rescaled between steps are in no graph")
    if options.threads:
        torch.set_num_threads(options.threads)
    experiment = experiment_of(options)
    images = experiment.images(options.data)
    rows = contenders(experiment, options.ramps, norms=options.norms)
    seeds = range(options.seeds)
    runs: dict[str, dict[float, list[Run]]] = {row.name: {} for row in rows}
    for rate in options.rates:
        of_rate = replace(experiment, recipe=replace(experiment.recipe, learning_rate=rate))
        folder = options.output / str(rate)
        for row in rows:
            journal = Journal(folder / f"{row.journal}.jsonl", of_rate)
            kept = options.checkpoints / str(rate) / row.journal
            benchmark = Benchmark(images, of_rate, journal, kept, row.trainer)
            for seed in seeds:
                benchmark.run(row.course, seed)
            runs[row.name][rate] = [journal.runs[row.course.name, seed] for seed in seeds]
    device = single_device(experiment.precision).device
    medians = step_times(experiment, device)
    steps = len(images.train_labels) // experiment.recipe.batch_size
    facts = experiment_facts(experiment, images, device)
    recipe = asdict(experiment.recipe) | {"learning_rate": " or ".join(map(str, options.rates))}
    facts["recipe"] = ", ".join(f"{key} {value}" for key, value in recipe.items())
    facts["seeds"] = ", ".join(map(str, seeds))
    text = report(runs, medians, steps, facts)
    figures = {
        "settings": facts,
        "experiment": experiment.to_dict(),
        "step_seconds": medians,
        "steps_per_epoch": steps,
        "runs": [
            {"contender": name, "learning_rate": rate, "run": run.to_dict()}
            for name, of_rates in runs.items()
            for rate, of_seeds in of_rates.items()
            for run in of_seeds
        ],
    }
    write_results(options.output, NAME, text, figures)
    print(f"\n{text}")


def report(
    runs: Mapping[str, Mapping[float, Sequence[Run]]],
    step_seconds: Mapping[str, float],
    steps_per_epoch: int,
    facts: Mapping[str, str],
) -> str:
    """One row a contender, one column a rate; each is compared at the rate where it is best."""
    best = {name: max(of.values(), key=_accuracy) for name, of in runs.items()}
    target = best[RunNames.TARGET]

    def computed(of_seeds: Sequence[Run]) -> float:
        return mean_computed_seconds(of_seeds, step_seconds, steps_per_epoch)

    rows = []
    for name, of_rates in runs.items():
        own = best[name]
        others = (
            [""] * 2
            if own is target
            else [
                f"{100 * (_accuracy(own) - _accuracy(target)):+.1f}",
                percent([1 - computed(own) / computed(target)]),
            ]
        )
        finals = [_final(of_seeds, bold=of_seeds is own) for of_seeds in of_rates.values()]
        rows.append([name, *finals, *others])
    rates = next(iter(runs.values()))
    header = ["run", *(f"rate {rate}" for rate in rates), "to target, points", "saved"]
    return (
        f"# Learning rates\n\n{bullet_list(facts)}\n\n"
        f"{EXPLANATION}\n\n{markdown_table(header, rows)}\n"
    )


def _accuracy(runs: Sequence[Run]) -> float:
    return mean(run.accuracy for run in runs)


def _final(runs: Sequence[Run], *, bold: bool) -> str:
    text = percent(run.accuracy for run in runs)
    return f"**{text}**" if bold else text


def _parser() -> argparse.ArgumentParser:
    parser = tiny_imagenet.runs_parser(__doc__)
    parser.set_defaults(transitions=[])
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.05, 0.1, 0.2], help="in place of one rate"
    )
    parser.add_argument("--norms", action="store_true", help="also runs with kernels rescaled")
    return parser


if __name__ == "__main__":
    main()
