"""Time of one training step of target network, progressive resizing and pre-train network.

    python -m benchmarks.step_time --models torchvision/resnet34 --batch-size 16

One step is forward, backward and optimizer (SGD with momentum). The networks take turns in one
process; the table gives medians and ratios. *Progressive resizing* is the unchanged target network
on the pre-train network's small images; a network with a fully connected interface of fixed size
cannot do that, and the table has a dash. The last column is the ratio of multiply-accumulates of
target and pre-train network: the speed-up if arithmetic were all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import fxscale
from benchmarks._env import environment
from benchmarks._table import bullet_list, markdown_table, write_results
from benchmarks._timing import Step, alternating_medians
from fxscale.models.registry import create

SIZES = {
    "overfeat_fast": (231, 147),
    "torchvision/resnet34": (224, 160),
    "torchvision/vgg16": (224, 160),
    "torchvision/resnet50": (224, 160),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
HEADER = (
    "model",
    "sizes",
    "target (ms)",
    "progressive resizing (ms)",
    "pre-train (ms)",
    "over target",
    "over progressive resizing",
    "MAC ratio",
)


@dataclass(frozen=True)
class Settings:
    """How a step is run. `bf16` means autocast with float32 weights."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    batch_size: int = 16
    channels_last: bool = True
    compiled: bool = False
    repeats: int = 15

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of one step; `progressive` is `None` where the network cannot do it."""

    model: str
    target_size: int
    pretrain_size: int
    target: float
    progressive: float | None
    pretrain: float
    mac_ratio: float


def measure(
    name: str, target: nn.Module, target_size: int, pretrain_size: int, settings: Settings
) -> StepTimes:
    """Step times of a network `(N, 3, S, S) -> (N, classes)` and its pre-train network."""
    pretrain = fxscale.downscale(target, pretrain_size, target_size=target_size)
    target = _placed(target, settings)
    steps = {
        "target": training_step(target, target_size, settings),
        "pretrain": training_step(_placed(pretrain, settings), pretrain_size, settings),
    }
    if accepts(target, pretrain_size, settings):
        steps["progressive"] = training_step(target, pretrain_size, settings)
    medians = alternating_medians(steps, repeats=settings.repeats, device=settings.device)
    return StepTimes(
        name,
        target_size,
        pretrain_size,
        medians["target"],
        medians.get("progressive"),
        medians["pretrain"],
        pretrain.plan.mac_ratio,
    )


def training_step(network: nn.Module, size: int, settings: Settings, *, channels: int = 3) -> Step:
    """One step on the same random images and labels each time."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    images = _images(size, settings, channels)
    labels = torch.zeros(settings.batch_size, dtype=torch.long, device=settings.device)
    forward = torch.compile(network, dynamic=False) if settings.compiled else network
    network.train()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(
            settings.device.type, settings.dtype, enabled=settings.dtype != torch.float32
        ):
            loss = F.cross_entropy(_logits(forward(images)), labels)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def accepts(network: nn.Module, size: int, settings: Settings) -> bool:
    """Whether the network runs on images of this size at all: the fact, not a guess at it."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(_images(size, settings, 3)[:1])
    except RuntimeError:
        return False
    finally:
        network.train(was_training)
    return True


def _images(size: int, settings: Settings, channels: int) -> torch.Tensor:
    images = torch.randn(settings.batch_size, channels, size, size, device=settings.device)
    return images.contiguous(memory_format=settings.memory_format)


def _placed(network: nn.Module, settings: Settings) -> nn.Module:
    network.to(settings.device, memory_format=settings.memory_format)  # type: ignore[call-overload]  # torch declares no memory_format here
    return network


def _logits(output: object) -> torch.Tensor:
    """The main output of networks that return auxiliary ones as well."""
    return output if isinstance(output, torch.Tensor) else output[0]  # type: ignore[index]  # a tuple, then


def table(results: Sequence[StepTimes]) -> str:
    rows = []
    for r in results:
        over_progressive = r.progressive / r.pretrain if r.progressive else None
        rows.append(
            [
                r.model,
                f"{r.target_size} / {r.pretrain_size}",
                f"{1e3 * r.target:.1f}",
                f"{1e3 * r.progressive:.1f}" if r.progressive else "-",
                f"{1e3 * r.pretrain:.1f}",
                f"{r.target / r.pretrain:.2f}×",
                f"{over_progressive:.2f}×" if over_progressive else "-",
                f"{r.mac_ratio:.2f}×",
            ]
        )
    return markdown_table(HEADER, rows)


def main(arguments: Sequence[str] | None = None) -> None:
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
    parser.add_argument("--threads", type=int, help="CPU threads; torch's default if not given")
    parser.add_argument("--repeats", type=int, default=15, help="rounds counted")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument("--name", default="step_time", help="name of the result files")
    options = parser.parse_args(arguments)

    if options.threads:
        torch.set_num_threads(options.threads)
    settings = Settings(
        torch.device(options.device),
        DTYPES[options.dtype],
        options.batch_size,
        options.channels_last,
        options.compile,
        options.repeats,
    )
    results = []
    for name in options.models:
        torch.manual_seed(0)
        target_size, pretrain_size = SIZES.get(name, tuple(options.sizes))
        results.append(measure(name, create(name), target_size, pretrain_size, settings))
        print(table(results[-1:]), flush=True)

    facts = environment(settings.device) | {
        "batch": str(settings.batch_size),
        "dtype": options.dtype,
        "channels_last": str(settings.channels_last),
        "torch.compile": str(settings.compiled),
        "rounds": str(settings.repeats),
    }
    text = f"# One training step\n\n{bullet_list(facts)}\n\n{table(results)}\n"
    write_results(
        options.output,
        options.name,
        text,
        {"settings": facts, "steps": [asdict(r) for r in results]},
    )
    print(f"\n{text}")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the lines of the description."""


if __name__ == "__main__":
    main()
