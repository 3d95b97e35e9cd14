"""Memory of a training step of target network, progressive resizing and pre-train network.

    python -m benchmarks.step_memory

Nothing is timed. On a CPU the bytes are counted on fake tensors (`_memory.py`): the same on every
machine. The last column has the largest batches that take no more than the target's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

import fxscale
from benchmarks._env import environment
from benchmarks._memory import NOTE, largest_batch, step_memory
from benchmarks._step import DTYPES, Settings, accepts
from benchmarks._table import bullet_list, markdown_table, write_results
from benchmarks.step_time import SIZES
from fxscale.models.registry import create

MEBIBYTE = 2**20
HEADER = (
    "model",
    "sizes",
    "batch",
    "target (MiB)",
    "progressive resizing",
    "pre-train",
    "batches at equal memory",
)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step; the largest batches at the target's. `None`: the network cannot do that."""

    model: str
    target_size: int
    pretrain_size: int
    batch_size: int
    target: float
    progressive: float | None
    pretrain: float
    progressive_batch: int | None
    pretrain_batch: int


def measure(
    name: str,
    target: nn.Module,
    pretrain: fxscale.PretrainNetwork,
    settings: Settings,
) -> StepMemory:
    (target_size, _), (small, _) = pretrain.plan.target_size, pretrain.plan.pretrain_size
    budget = step_memory(target, target_size, settings)
    # Whether a size is accepted is a matter of one image.
    resizable = accepts(target, small, replace(settings, device=torch.device("cpu"), batch_size=1))
    return StepMemory(
        name,
        target_size,
        small,
        settings.batch_size,
        budget,
        step_memory(target, small, settings) if resizable else None,
        step_memory(pretrain, small, settings),
        largest_batch(target, small, settings, budget) if resizable else None,
        largest_batch(pretrain, small, settings, budget),
    )


def table(results: Sequence[StepMemory]) -> str:
    rows = [
        [
            r.model,
            f"{r.target_size} / {r.pretrain_size}",
            str(r.batch_size),
            f"{r.target / MEBIBYTE:.0f}",
            "-" if r.progressive is None else f"{r.progressive / r.target:.2f}",
            f"{r.pretrain / r.target:.2f}",
            f"{r.batch_size} / {r.progressive_batch or '-'} / {r.pretrain_batch}",
        ]
        for r in results
    ]
    return markdown_table(HEADER, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(SIZES), help="names of the registry")
    parser.add_argument(
        "--sizes", nargs=2, type=int, default=(224, 160), metavar="PX", help="of any other model"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16: autocast")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 128])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument("--name", default="step_memory", help="name of the result files")
    options = parser.parse_args(arguments)

    settings = Settings(torch.device(options.device), DTYPES[options.dtype])
    results = []
    for name in options.models:
        target_size, small_size = SIZES.get(name, tuple(options.sizes))
        target = create(name)
        pretrain = fxscale.downscale(target, small_size, target_size=target_size)
        for count in options.batch_sizes:
            results.append(measure(name, target, pretrain, replace(settings, batch_size=count)))
            print(table(results[-1:]), flush=True)
    facts = environment(settings.device) | {"dtype": options.dtype, "channels_last": "True"}
    text = (
        f"# Memory of a training step\n\n{bullet_list(facts)}\n\n"
        "Progressive resizing and pre-train network as a share of the target's memory; batches at "
        "equal memory:\ntarget / progressive resizing / pre-train. SGD with momentum.\n"
        f"{NOTE[settings.device.type]}\n\n{table(results)}\n"
    )
    figures = {"settings": facts, "steps": [asdict(r) for r in results]}
    write_results(options.output, options.name, text, figures)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
