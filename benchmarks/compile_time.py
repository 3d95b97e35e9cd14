"""Time and memory of `fxscale.downscale`, in total and pass by pass.

    python -m benchmarks.compile_time

Every figure is the median of `--repeats` compilations after one that is not counted. Peak extra
memory is how far the process's resident memory rose above where it stood before the compilation
(Linux only), next to the memory of the parameters of both networks: the pre-train network itself
has to be made.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

import fxscale
from benchmarks._env import environment
from benchmarks._table import bullet_list, markdown_table, write_results
from fxscale.models.registry import create
from fxscale.passes.pipeline import Timings

MODELS = ("torchvision/resnet34", "torchvision/resnet152")
MEBIBYTE = 2**20
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class CompileTimes:
    """Median seconds of one compilation and of each pass; memory in bytes."""

    model: str
    seconds: float
    passes: dict[str, float]
    parameters: int
    extra_memory: int | None


def measure(
    name: str, model: nn.Module, input_size: int, target_size: int, *, repeats: int
) -> CompileTimes:
    """Compiles `model` `repeats + 1` times."""
    totals: list[float] = []
    passes: list[dict[str, float]] = []
    memory: list[int] = []
    parameters = 0

    def compile_once(timings: Timings | None = None) -> nn.Module:
        return fxscale.downscale(model, input_size, target_size=target_size, timings=timings)

    for repeat in range(repeats + 1):
        timings = Timings()
        started = time.perf_counter()
        small = compile_once(timings)
        seconds = time.perf_counter() - started
        if repeat:  # the first compilation fills caches and is not counted
            totals.append(seconds)
            passes.append(timings.seconds)
        parameters = bytes_of(model) + bytes_of(small)
        del small
    for _ in range(repeats):
        extra = peak_memory(compile_once)
        if extra is not None:
            memory.append(extra)
    medians = {key: median(times[key] for times in passes) for key in passes[0]}
    return CompileTimes(
        name, median(totals), medians, parameters, int(median(memory)) if memory else None
    )


def bytes_of(network: nn.Module) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    tensors = {t.data_ptr(): t for t in (*network.parameters(), *network.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def peak_memory(work: Callable[[], object]) -> int | None:
    """Bytes by which `work` raised the resident memory at most; `None` where nobody can tell."""
    if not _CLEAR.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed must not hide what this one takes
    _CLEAR.write_text("5")  # sets the high-water mark to what is resident now
    before = _resident("VmHWM")
    work()
    return _resident("VmHWM") - before


def _resident(entry: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{entry}:"))
    return int(line.split()[1]) * 1024


def table(results: Sequence[CompileTimes]) -> str:
    passes = [*results[0].passes]
    rows = [
        [
            r.model,
            f"{r.seconds:.3f}",
            *(f"{r.passes[name]:.3f}" for name in passes),
            f"{r.extra_memory / MEBIBYTE:.0f}" if r.extra_memory is not None else "-",
            f"{r.parameters / MEBIBYTE:.0f}",
        ]
        for r in results
    ]
    header = [
        "model",
        "total (s)",
        *(f"{name} (s)" for name in passes),
        "peak extra memory (MiB)",
        "parameters of both networks (MiB)",
    ]
    return markdown_table(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of the registry")
    parser.add_argument(
        "--sizes", nargs=2, type=int, default=(224, 160), help="target and pre-train size"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    target_size, pretrain_size = options.sizes
    results = [
        measure(name, create(name), pretrain_size, target_size, repeats=options.repeats)
        for name in options.models
    ]
    facts = environment(torch.device("cpu")) | {
        "sizes": f"{target_size} / {pretrain_size}",
        "repeats": f"{options.repeats}, medians",
    }
    text = f"# Compiling\n\n{bullet_list(facts)}\n\n{table(results)}\n"
    figures = {"settings": facts, "models": [asdict(r) for r in results]}
    write_results(options.output, "compile_time", text, figures)
    print(text)


if __name__ == "__main__":
    main()
