"""More, cheaper epochs in the time of fewer: schedules of several lengths beside one another.

    python -m benchmarks.schedule_lengths --data tiny-imagenet-40.tar.gz --pretrain-size 32 \\
        --schedules 14:11,13 10:8,9 19:16,18/4,9,46,14 19:16,18/0,9,46,14

`tiny_imagenet` gives all of its runs equally many epochs. An epoch on small images costs less, so
here every schedule has its own: `EPOCHS:DROPS` is the target network alone, `EPOCHS:DROPS/A,B,PX,C`
one of `--ramps` of `tiny_imagenet` (A = 0: without small kernels), with its options otherwise;
`EPOCHS:DROPS/A,PX,B` has small kernels until epoch B, from epoch A on with images of PX pixels, and
then the target's on its own. The first is what the others are compared with. A target alone with
fewer epochs tells whether the first had more than it needed. With `--norms`, schedules with small
kernels are also run with enlarged kernels given the norms that they had (`_norms.py`).

Finished runs are kept in `OUTPUT/EPOCHS-DROPS/tiny_imagenet.jsonl` and are not made again; those of
one length that begin alike share the beginning, as in `tiny_imagenet`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks import tiny_imagenet
from benchmarks._norms import NormsKept
from benchmarks._table import bullet_list, markdown_table, write_results
from benchmarks._tiny_imagenet_report import RunNames, mean_computed_seconds
from benchmarks._tiny_imagenet_runs import Course, Experiment, Journal
from benchmarks._tiny_imagenet_training import Benchmark, step_times
from benchmarks.tiny_imagenet import experiment_facts, experiment_of, ramp, trainer_of
from fxscale.training import Run
from fxscale.training.loop import single_device
from fxscale.training.runs import percent, signed

NAME = "schedule_lengths"
EXPLANATION = """\
Accuracy on the test images after the last epoch, mean ± sample standard deviation over the seeds;
points to the first schedule, seed by seed; and training time saved at median step times, measured
taking turns."""


@dataclass(frozen=True)
class Schedule:
    """A row of the table: how many epochs, after which the rate drops, and what trains in them."""

    epochs: int
    milestones: tuple[int, ...]
    course: Course
    norms_kept: bool = False

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """`14:11,13`, `19:16,18/4,9,46,14` or `21:19,20/13,46,18`."""
        length, slash, steps = text.partition("/")
        epochs, _, drops = length.partition(":")
        if not all(part.isdecimal() for part in (epochs, *drops.split(","))):
            raise argparse.ArgumentTypeError(
                f"expected epochs and drops like 14:11,13; found {text!r}"
            )
        course = Course(RunNames.TARGET)
        if slash and steps.count(",") == 2:
            course = _grown(steps)
        elif slash:
            after, small, size, last = ramp(steps)
            course = Course(RunNames.ramp(after, small, size, last), after, last, (small, size))
        found = cls(int(epochs), tuple(map(int, drops.split(","))), course)
        if max(course.small, course.pretrain) >= found.epochs:
            raise argparse.ArgumentTypeError(f"{text!r} leaves the target's own images no epoch")
        return found

    @property
    def name(self) -> str:
        drops = " and ".join(map(str, self.milestones))
        norms = ", norms kept" if self.norms_kept else ""
        return f"{self.epochs} epochs, drops after {drops}: {self.course.name}{norms}"

    @property
    def folder(self) -> str:
        return f"{self.epochs}-{','.join(map(str, self.milestones))}"

    def among(self, schedules: Sequence[Schedule], experiment: Experiment) -> Experiment:
        """The experiment of this length, with the courses of all `schedules` of the same."""
        recipe = replace(experiment.recipe, epochs=self.epochs, milestones=self.milestones)
        alike = tuple(other.course for other in schedules if other.folder == self.folder)
        return replace(experiment, recipe=recipe, courses=alike)


def _grown(text: str) -> Course:
    """`A,PX,B`, the epochs increasing."""
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or int(parts[0]) >= int(parts[2]):
        raise argparse.ArgumentTypeError(f"expected epochs around a size, 13,46,18; found {text!r}")
    grown, size, last = map(int, parts)
    return Course(RunNames.grown(grown, size, last), last, grown=(grown, size))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.norms and options.graphed:
        parser.error("--norms and --graphed do not go together")
    plain = trainer_of(options)
    experiment = experiment_of(options)
    images = experiment.images(options.data)
    seeds = range(options.seeds)
    schedules: list[Schedule] = list(options.schedules)
    if options.norms:
        schedules += [replace(s, norms_kept=True) for s in schedules if s.course.pretrain]
    runs: dict[str, list[Run]] = {}
    for schedule in schedules:
        of_length = schedule.among(options.schedules, experiment)
        trainer = NormsKept if schedule.norms_kept else plain
        file = "norms_kept" if schedule.norms_kept else tiny_imagenet.NAME
        journal = Journal(options.output / schedule.folder / f"{file}.jsonl", of_length)
        kept = options.checkpoints / schedule.folder
        benchmark = Benchmark(images, of_length, journal, kept, trainer)
        for seed in seeds:
            benchmark.run(schedule.course, seed)
        runs[schedule.name] = [journal.runs[schedule.course.name, seed] for seed in seeds]
    courses = tuple(schedule.course for schedule in options.schedules)
    device = single_device(experiment.precision).device
    medians = step_times(replace(experiment, courses=courses), device, graphed=options.graphed)
    steps = len(images.train_labels) // experiment.recipe.batch_size
    facts = experiment_facts(experiment, images, device)
    recipe = asdict(experiment.recipe) | {"epochs": "see below", "milestones": "see below"}
    facts["recipe"] = ", ".join(f"{key} {value}" for key, value in recipe.items())
    facts["seeds"] = ", ".join(map(str, seeds))
    text = report(runs, medians, steps, facts)
    figures = {
        "settings": facts,
        "step_seconds": medians,
        "steps_per_epoch": steps,
        "runs": [
            {"schedule": name, "run": run.to_dict()} for name, of in runs.items() for run in of
        ],
    }
    write_results(options.output, NAME, text, figures)
    print(f"\n{text}")


def report(
    runs: Mapping[str, Sequence[Run]],
    step_seconds: Mapping[str, float],
    steps_per_epoch: int,
    facts: Mapping[str, str],
) -> str:
    """One row a schedule, each compared with the first."""
    first = next(iter(runs.values()))

    def computed(of_seeds: Sequence[Run]) -> float:
        return mean_computed_seconds(of_seeds, step_seconds, steps_per_epoch)

    rows = []
    for name, own in runs.items():
        points = [
            100 * (run.accuracy - other.accuracy) for run, other in zip(own, first, strict=True)
        ]
        compared = [signed(points, 1), percent([1 - computed(own) / computed(first)])]
        final = percent(run.accuracy for run in own)
        rows.append([name, final, *(["", ""] if own is first else compared)])
    header = ["schedule", "final accuracy", "to the first, points", "saved"]
    times = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in step_seconds.items())
    return (
        f"# Schedules of several lengths\n\n{bullet_list(facts)}\n\n{EXPLANATION}\n\n"
        f"{markdown_table(header, rows)}\n\n"
        f"Median training step: {times}; {steps_per_epoch} steps per epoch.\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = tiny_imagenet.runs_parser(__doc__)
    parser.set_defaults(transitions=[], progressive_at=[])
    parser.add_argument(
        "--schedules",
        type=Schedule.parse,
        nargs="+",
        required=True,
        metavar="EPOCHS:DROPS[/A,B,PX,C|/A,PX,B]",
        help="in place of --epochs, --milestones and --ramps",
    )
    parser.add_argument("--norms", action="store_true", help="also runs with kernels rescaled")
    return parser


if __name__ == "__main__":
    main()
