"""Time and memory of a training step: target network, progressive resizing, pre-train network.

    python -m benchmarks.step_time --models torchvision/resnet34 --batch-size 16
    python -m benchmarks.step_time --models torchvision/resnet34 --loop --data imagenet --workers 8

One step is forward, backward and optimizer (SGD with momentum) on the same images each time. With
`--loop` it is the mean step of a short epoch as `fxscale train` runs it, on synthetic images or a
folder of files, with loading and augmentation, or on one batch without. The networks take turns in
one process, step by step or epoch by epoch; the table gives medians and ratios. *Progressive
resizing* is the unchanged target network on the pre-train network's small images; a network with a
fully connected interface of fixed size cannot do that, and the table has a dash. *MAC ratio* is
that of the multiply-accumulates of target and pre-train network, the speed-up if arithmetic were
all, and the column after it the share of it that was reached. Memory is that of one step, as a
share of the target's. The second table has the batch sizes at which all three take the memory of
the target's step, and the throughput then. `--memory step` leaves it out and `--memory none` both,
where every size that is tried has to be compiled first. With `--graphed` the steps are replayed
from CUDA graphs, so that the device never waits for Python: of a network whose kernels are short, a
step by itself takes as long as it takes to launch them. Results are written after every model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import isinf
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

import fxscale
from benchmarks._env import environment
from benchmarks._loop import Loops
from benchmarks._memory import NOTE, largest_batch, step_memory
from benchmarks._step import DTYPES, Networks, Settings, compared, training_step
from benchmarks._step_time_report import EQUAL_MEMORY, StepTimes, equal_memory_table, table
from benchmarks._table import bullet_list, write_results
from benchmarks._timing import Step, alternating_medians
from fxscale.errors import FxscaleError
from fxscale.models.registry import create
from fxscale.training.pictures import open_source

SIZES = {
    "overfeat_fast": (231, 147),
    "torchvision/resnet34": (224, 160),
    "torchvision/vgg16": (224, 160),
    "torchvision/resnet50": (224, 160),
}
ONE_BATCH = "one-batch"
BY_TRAINER = "as fxscale train --compile does"
MemoryFigures = Literal["equal", "step", "none"]


def measure(
    name: str,
    target: nn.Module,
    target_size: int,
    pretrain_size: int,
    settings: Settings,
    loops: Loops | None = None,
    *,
    memory: MemoryFigures = "equal",
) -> StepTimes:
    """A network `(N, 3, S, S) -> (N, classes)` and its pre-train network, by steps or by loops."""
    pretrain = fxscale.downscale(target, pretrain_size, target_size=target_size)
    networks = compared(target, pretrain, (target_size, pretrain_size), settings)

    # Before anything is timed: a step that is timed stays on the device.
    taken: dict[str, float] = {}
    if memory != "none":
        taken = {key: step_memory(*network, settings) for key, network in networks.items()}
        if isinf(taken["target"]):
            raise FxscaleError(
                f"{name}: a step of {settings.batch_size} images does not fit into the device's "
                f"memory"
            )
    same = dict.fromkeys(networks, settings.batch_size)
    batches: dict[str, int] = {}
    if memory == "equal":
        batches = same | {
            key: largest_batch(*network, settings, taken["target"])
            for key, network in networks.items()
            if key != "target"
        }
    return StepTimes(
        name,
        target_size,
        pretrain_size,
        pretrain.plan.mac_ratio,
        _seconds(networks, same, settings, loops),
        taken,
        batches,
        _seconds(networks, batches, settings, loops) if batches else {},
    )


def _seconds(
    networks: Networks, batches: Mapping[str, int], settings: Settings, loops: Loops | None
) -> dict[str, float]:
    """Median seconds of a step of each network at its batch size."""

    def work(network: nn.Module, size: int, batch_size: int) -> Step:
        if loops is not None:
            return loops.epoch(network, size, batch_size)
        return training_step(network, size, replace(settings, batch_size=batch_size))

    medians = alternating_medians(
        {key: work(*network, batches[key]) for key, network in networks.items()},
        repeats=settings.repeats,
        device=settings.device,
        warm_up=3 if loops is None else 1,
    )
    steps = 1 if loops is None else loops.steps
    return {key: seconds / steps for key, seconds in medians.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = options.autotune
    settings = Settings(
        torch.device(options.device),
        DTYPES[options.dtype],
        options.batch_size,
        options.channels_last,
        options.compile,
        options.repeats,
        options.graphed,
    )
    facts = environment(settings.device) | {
        "batch": str(settings.batch_size),
        "dtype": options.dtype,
        "channels_last": str(settings.channels_last),
        "torch.compile": str(settings.compiled),
        "rounds": str(settings.repeats),
    }
    if settings.device.type == "cuda":
        facts |= {
            "CUDA graph": BY_TRAINER if options.loop and options.compile else str(options.graphed),
            "autotuned kernels": str(options.autotune),
        }
    loops, title = None, "One training step"
    if options.loop:
        source = None if options.data == ONE_BATCH else open_source(options.data)
        loops = Loops(source, options.loop_steps, options.workers, settings)
        title = "One training step of the whole loop"
        images = f"{source.name}, {len(source.train)} to train on" if source else "one batch"
        facts |= {
            "images": images,
            "workers": str(options.workers),
            "steps a round": str(options.loop_steps),
        }
    results: list[StepTimes] = []
    for name in options.models:
        torch.manual_seed(0)
        target_size, pretrain_size = SIZES.get(name, tuple(options.sizes))
        results.append(
            measure(
                name,
                create(name),
                target_size,
                pretrain_size,
                settings,
                loops,
                memory=options.memory,
            )
        )
        print(table(results[-1:]), flush=True)
        text = f"# {title}\n\n{bullet_list(facts)}\n\n{table(results)}\n\n"
        if options.memory != "none":
            text += f"{NOTE[settings.device.type]}\n"
        if options.memory == "equal":
            text += f"\n{EQUAL_MEMORY}\n{equal_memory_table(results)}\n"
        figures = {"settings": facts, "steps": [asdict(r) for r in results]}
        write_results(options.output, options.name, text, figures)
    print(f"\n{text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Help)
    parser.add_argument("--models", nargs="+", default=list(SIZES), help="names of the registry")
    parser.add_argument(
        "--sizes", nargs=2, type=int, default=(224, 160), metavar="PX", help="of any other model"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16: autocast")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action="store_true", help="torch.compile every network")
    parser.add_argument(
        "--autotune",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="CUDA: let cuDNN try its kernels and take the fastest",
    )
    parser.add_argument("--graphed", action="store_true", help="CUDA: replay steps from graphs")
    parser.add_argument(
        "--memory",
        choices=get_args(MemoryFigures),
        default="equal",
        help="what to measure of it: a step's, also batches that take equally much, or nothing",
    )
    parser.add_argument("--threads", type=int, help="CPU threads; torch's default if not given")
    parser.add_argument("--repeats", type=int, default=15, help="rounds counted")
    parser.add_argument("--loop", action="store_true", help="time loops in place of steps")
    parser.add_argument(
        "--data",
        default="synthetic",
        help=f"of --loop: a folder, synthetic, or {ONE_BATCH}, which is not loaded",
    )
    parser.add_argument("--workers", type=int, default=0, help="of --loop: loader processes")
    parser.add_argument("--loop-steps", type=int, default=20, help="of --loop: steps an epoch")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument("--name", default="step_time", help="name of the result files")
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the lines of the description."""


if __name__ == "__main__":
    main()
