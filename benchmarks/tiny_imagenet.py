"""Real images: what pre-training saves, and what it costs in accuracy, beside its peer.

    python -m benchmarks.tiny_imagenet --data tiny-imagenet-40.tar.gz

`--data` is a tarball or folder with `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`. For every seed, by
the same recipe and for equally many epochs:

1. the target network alone;
2. the pre-train network alone;
3. the pre-train network, with the transition after each of `--transitions` epochs;
4. progressive resizing: the unchanged target network on small images, then on large ones, switched
   after the same epochs (or `--progressive-at` others), optimizer and all carried on; a network of
   one image size has its fully connected interface resized, and keeps its kernels;
5. one after the other: for each `A,B` of `--both`, the pre-train network until epoch A, the target
   on small images until epoch B, then on its own; for each of `--ramps` with images of a third
   size between them.

The network is small and residual, or `--model`, by its name in the registry. Each finished run is
one line of `OUTPUT/tiny_imagenet.jsonl` and is not run again: stop the benchmark and start it with
the same settings to go on. Runs that begin alike share the beginning: a run with a transition goes
on from a checkpoint of the pre-train network's run of the same seed, with the epoch times recorded
there; likewise progressive resizing. Seeds decide order and augmentation epoch by epoch, so the
result is that of a run from the start. The tables are written whenever a run is done for all seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks._env import environment
from benchmarks._graphed import GraphedTrainer
from benchmarks._step import DTYPES
from benchmarks._table import write_results
from benchmarks._tiny_imagenet_report import RunNames, report
from benchmarks._tiny_imagenet_runs import Course, Experiment, Journal
from benchmarks._tiny_imagenet_training import Benchmark, step_times
from fxscale.errors import FxscaleError
from fxscale.training import (
    ImageSet,
    Recipe,
    Trainer,
)

NAME = "tiny_imagenet"


def main(arguments: Sequence[str] | None = None) -> None:
    options = runs_parser(__doc__).parse_args(arguments)
    trainer = trainer_of(options)
    experiment = experiment_of(options)
    images = experiment.images(options.data)
    journal = Journal(options.output / f"{NAME}.jsonl", experiment)
    benchmark = Benchmark(images, experiment, journal, options.checkpoints, trainer)
    device = benchmark.fabric.device
    medians = step_times(experiment, device, graphed=options.graphed)
    steps = len(images.train_labels) // experiment.recipe.batch_size
    seeds = range(options.seeds)
    facts = experiment_facts(experiment, images, device) | {"seeds": ", ".join(map(str, seeds))}
    finished: list[str] = []
    for course in experiment.courses:
        for seed in seeds:
            benchmark.run(course, seed)
        finished.append(course.name)
        runs = [
            run for (name, seed), run in journal.runs.items() if name in finished and seed in seeds
        ]
        text = report(runs, finished, medians, steps, facts)
        figures = {
            "settings": facts,
            "experiment": experiment.to_dict(),
            "step_seconds": medians,
            "steps_per_epoch": steps,
            "runs": [run.to_dict() for run in runs],
        }
        write_results(options.output, NAME, text, figures)
    print(f"\n{text}")


def trainer_of(options: argparse.Namespace) -> type[Trainer]:
    """Sets torch up as asked for; what trains then."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = options.graphed  # its kernels are chosen once, for all steps
    return GraphedTrainer if options.graphed else Trainer


def experiment_of(options: argparse.Namespace) -> Experiment:
    """What was asked for, checked."""
    recipe = Recipe(
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        milestones=tuple(options.milestones),
        weight_decay=5e-4,
        batch_size=options.batch_size,
    )
    transitions, progressive = options.transitions, options.progressive_at
    courses = (
        Course(RunNames.TARGET),
        *(Course(RunNames.resized(e), pretrain=e) for e in sorted(transitions)),
        *(Course(RunNames.both(*pair), *pair) for pair in options.both),
        *(Course(RunNames.ramp(a, b, c, d), a, d, (b, c)) for a, b, c, d in options.ramps),
        *(
            Course(RunNames.progressive(e), small=e)
            for e in sorted(transitions if progressive is None else progressive)
        ),
        Course(RunNames.PRETRAIN, pretrain=recipe.epochs),
    )
    changes = [
        epoch
        for course in courses[1:-1]
        for epoch in (course.pretrain, course.small, *(course.middle or ())[:1])
        if epoch
    ]
    if not all(0 < e < recipe.epochs for e in changes):
        raise FxscaleError(
            f"transitions must lie between 1 and {recipe.epochs - 1} epochs; found {changes}"
        )
    return Experiment(
        recipe,
        options.classes,
        options.held_out,
        options.target_size,
        options.pretrain_size,
        tuple(options.widths),
        options.blocks,
        courses,
        options.model,
        options.precision,
    )


def experiment_facts(
    experiment: Experiment, images: ImageSet, device: torch.device
) -> dict[str, str]:
    """What was trained, on what, and where, as text."""
    return environment(device) | {
        "images": f"{images.name}, {len(images.train_labels)} to train on, "
        f"{len(images.test_labels)} to test on",
        "recipe": ", ".join(f"{k} {v}" for k, v in asdict(experiment.recipe).items()),
        "network": experiment.model
        or f"residual, widths {experiment.widths}, {experiment.blocks} basic blocks each",
        "precision": experiment.precision,
        "sizes": f"target {experiment.target_size} px, pre-train {experiment.pretrain_size} px",
    }


def experiment_parser(description: str | None) -> argparse.ArgumentParser:
    """Where the images, the results and the shared beginnings lie."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="tarball or folder")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("data/tiny_imagenet"),
        help="folder for the shared beginnings; may be deleted afterwards",
    )
    parser.add_argument("--threads", type=int, help="CPU threads")
    return parser


def runs_parser(description: str | None) -> argparse.ArgumentParser:
    """What is trained, and how; with the options of `experiment_parser`."""
    parser = experiment_parser(description)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--milestones", type=int, nargs="+", default=[7, 10])
    parser.add_argument("--transitions", type=int, nargs="*", default=[5, 6, 9])
    parser.add_argument(
        "--progressive-at",
        type=int,
        nargs="*",
        help="epochs before the change of size in progressive resizing (default: --transitions); "
        "no number: without it",
    )
    parser.add_argument(
        "--both",
        type=_pair,
        nargs="+",
        default=[],
        metavar="A,B",
        help="epochs before the transition, and before the target's own image size",
    )
    parser.add_argument(
        "--ramps",
        type=ramp,
        nargs="+",
        default=[],
        metavar="A,B,PX,C",
        help="epochs before the transition (0: without it), before images of PX pixels, and before "
        "the target's own",
    )
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--held-out",
        type=int,
        default=0,
        help="training images of each class that test instead (default 0)",
    )
    parser.add_argument("--target-size", type=int, default=64)
    parser.add_argument("--pretrain-size", type=int, default=46)
    parser.add_argument("--widths", type=int, nargs="+", default=[24, 48, 96])
    parser.add_argument("--blocks", type=int, default=2, help="basic blocks of each width")
    parser.add_argument("--model", help="a network of the registry in place of --widths, --blocks")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="bf16: autocast")
    parser.add_argument("--graphed", action="store_true", help="CUDA: replay steps from graphs")
    return parser


def _pair(text: str) -> tuple[int, int]:
    """`A,B`, the first number the smaller."""
    first, _, second = text.partition(",")
    if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise argparse.ArgumentTypeError(f"expected two epochs like 9,22; found {text!r}")
    return int(first), int(second)


def ramp(text: str) -> tuple[int, int, int, int]:
    """`A,B,PX,C`, the epochs increasing; B = A goes over to images of PX pixels at once."""
    parts = text.split(",")
    if len(parts) == 4 and all(part.isdecimal() for part in parts):
        first, second, size, last = map(int, parts)
        if first <= second < last and second:
            return first, second, size, last
    raise argparse.ArgumentTypeError(
        f"expected epochs with a size before the last, like 2,8,46,11; found {text!r}"
    )


if __name__ == "__main__":
    main()
