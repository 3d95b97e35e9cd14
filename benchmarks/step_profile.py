"""Where the time of a training step goes: target network, progressive resizing, pre-train network.

    python -m benchmarks.step_profile --models torchvision/resnet34 --dtype bf16 --batch-size 256

The steps are those of `step_time`, recorded by torch's profiler. On CUDA times are those of the
kernels, and *device busy* is their sum as a share of the step without the profiler: what is missing
are gaps in which the device waits for the next kernel to be launched. The first table has the
milliseconds of a step by kind of operator, and the ratio of target to pre-train network: a kind
whose ratio lies below that of the multiply-accumulates keeps the step from it. The second has the
convolutions that take longest in the pre-train network, forward and backward, by the shapes of
images and kernels.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import fxscale
from benchmarks._env import environment
from benchmarks._step import DTYPES, Settings, compared, training_step
from benchmarks._table import bullet_list, markdown_table, write_results
from benchmarks._timing import Step, alternating_medians
from benchmarks.step_time import SIZES
from fxscale.models.registry import create

KINDS = {
    "convolution, backward": ("convolution_backward",),
    "convolution, forward": ("convolution",),
    "BatchNorm": ("batch_norm",),
    "pooling": ("pool",),
    "matrix product": ("addmm", "::mm", "bmm"),
    "padding and copies": ("pad", "copy_", "fill_", "zero_", "cat"),
    "activation": ("relu", "threshold", "clamp", "silu", "sigmoid", "gelu", "hardtanh"),
    "optimizer": ("_foreach", "_fused"),
}
"""Kind -> parts of operators' names; the first that fits counts."""
OTHER = "other"
COMPILED = "kernels of no operator"
"""Those that `torch.compile` made, mostly: BatchNorm, activations, additions and copies in one."""
SHOWN = 10


@dataclass(frozen=True)
class Profile:
    """Milliseconds of one step: by the clock, by kind of operator, and by convolution."""

    step: float
    kinds: dict[str, float]
    convolutions: dict[str, float]

    @property
    def busy(self) -> float:
        """The operators' time as a share of the step's."""
        return sum(self.kinds.values()) / self.step


def kind_of(operator: str) -> str:
    for kind, parts in KINDS.items():
        if any(part in operator for part in parts):
            return kind
    return OTHER


def profiled(step: Step, seconds: float, device: torch.device, steps: int) -> Profile:
    """The mean of `steps` steps of one that has run; without the profiler it takes `seconds`."""
    on_device = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with profile(activities=activities, record_shapes=True, acc_events=True) as record:
        for _ in range(steps):
            step()
        if on_device:
            torch.cuda.synchronize(device)
    kinds: dict[str, float] = defaultdict(float)
    convolutions: dict[str, float] = defaultdict(float)
    kernels = 0.0
    for event in record.key_averages(group_by_input_shape=True):
        time = event.self_device_time_total if on_device else event.self_cpu_time_total
        milliseconds = 1e-3 * time / steps
        if event.device_type.name == "CUDA" and not event.is_user_annotation:
            kernels += milliseconds
        if not event.key.startswith("aten::"):
            continue  # kernels come again under the operator that launched them
        kind = kind_of(event.key)
        kinds[kind] += milliseconds
        if kind.startswith("convolution"):
            convolutions[_shapes(kind, event.input_shapes)] += milliseconds
    if on_device:
        kinds[COMPILED] = max(0.0, kernels - sum(kinds.values()))
    slowest = sorted(convolutions.items(), key=itemgetter(1), reverse=True)
    return Profile(1e3 * seconds, dict(kinds), dict(slowest[:SHOWN]))


def _shapes(kind: str, inputs: Sequence[Sequence[int]]) -> str:
    """Such as `backward (256, 64, 40, 40) * (64, 64, 2, 2)`: feature map and kernel."""
    maps = [tuple(shape) for shape in inputs if len(shape) > 2]
    return f"{kind.split(', ')[1]} {' * '.join(map(str, maps[-2:]))}"


def measure(name: str, settings: Settings) -> dict[str, Profile]:
    torch.manual_seed(0)
    target_size, pretrain_size = SIZES[name]
    target = create(name)
    pretrain = fxscale.downscale(target, pretrain_size, target_size=target_size)
    networks = compared(target, pretrain, (target_size, pretrain_size), settings)
    steps = {key: training_step(*network, settings) for key, network in networks.items()}
    medians = alternating_medians(steps, repeats=settings.repeats, device=settings.device)
    return {
        key: profiled(step, medians[key], settings.device, settings.repeats)
        for key, step in steps.items()
    }


def report(name: str, profiles: Mapping[str, Profile]) -> str:
    target, pretrain = profiles["target"], profiles["pretrain"]
    shown = [profiles.get(key) for key in ("target", "progressive", "pretrain")]

    def row(title: str, values: Sequence[float | None]) -> list[str]:
        texts = ["-" if value is None else f"{value:.2f}" for value in values]
        first, last = values[0], values[-1]
        return [title, *texts, f"{first / last:.2f}×" if first and last else "-"]

    rows = [row("step", [p.step if p else None for p in shown])]
    rows += [
        row(kind, [p.kinds.get(kind, 0.0) if p else None for p in shown])
        for kind in sorted(target.kinds | pretrain.kinds, key=lambda k: -pretrain.kinds.get(k, 0))
    ]
    busy = [f"{100 * p.busy:.0f} %" if p else "-" for p in shown]
    rows.append(["device busy", *busy, ""])
    slowest = [[shapes, f"{ms:.3f}"] for shapes, ms in pretrain.convolutions.items()]
    header = ["ms", "target", "progressive resizing", "pre-train", "target / pre-train"]
    return (
        f"## {name}\n\n{markdown_table(header, rows)}\n\n"
        f"{markdown_table(['convolution of the pre-train network', 'ms'], slowest)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.backends.cudnn.benchmark = True
    settings = Settings(
        torch.device(options.device),
        DTYPES[options.dtype],
        options.batch_size,
        compiled=options.compile,
        repeats=options.repeats,
    )
    facts = environment(settings.device) | {
        "batch": str(settings.batch_size),
        "dtype": options.dtype,
        "channels_last": str(settings.channels_last),
        "torch.compile": str(settings.compiled),
    }
    found: dict[str, dict[str, Profile]] = {}
    for name in options.models:
        found[name] = measure(name, settings)
        print(report(name, found[name]), flush=True)
        texts = [report(*entry) for entry in found.items()]
        text = f"# Where a training step's time goes\n\n{bullet_list(facts)}\n\n" + "\n".join(texts)
        figures = {
            "settings": facts,
            "profiles": {n: {k: asdict(p) for k, p in of.items()} for n, of in found.items()},
        }
        write_results(options.output, options.name, text, figures)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16: autocast")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--compile", action="store_true", help="torch.compile every network")
    parser.add_argument("--repeats", type=int, default=5, help="steps counted")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument("--name", default="step_profile", help="name of the result files")
    return parser


if __name__ == "__main__":
    main()
