"""The least that a training step can take: target network, progressive resizing, pre-train network.

    python -m benchmarks.step_floor --dtype bf16 --batch-size 256

Every operator of a step takes the longer of two times: that of its arithmetic at the rate of a
large matrix product, and that of the memory it has to move at the rate of a large copy, both
measured on the device first. Operators are counted as the best kernels would run them:

- a convolution and a matrix product read and write each map once; their backward passes are two
  more, for the map's gradient and for the weights';
- BatchNorm reads its map twice, for the statistics and to normalise it, and writes it once;
  backward it reads map and gradient twice, and writes the map's gradient;
- pooling reads and writes each map once, forward and backward;
- the optimizer (SGD with momentum) reads weights, gradients and momentum, and writes two of them;
- everything else (activations, additions, copies) is done on the way, for nothing.

With the rates of a device that were measured before, as the results print them, none is needed:

    python -m benchmarks.step_floor --dtype bf16 --batch-size 256 --rates 729 4158

The ratios say how much faster the pre-train network can be on this device at all, whatever the
kernels: where memory limits a step, smaller kernels bring nothing, and the pixels count alone.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fxscale
from benchmarks._env import environment
from benchmarks._step import DTYPES, Settings, compared
from benchmarks._table import bullet_list, markdown_table, write_results
from benchmarks._timing import alternating_medians
from benchmarks.step_time import SIZES
from fxscale.models.registry import create

aten = torch.ops.aten
OPTIMIZER_PASSES = 5
"""Over float32 copies of all parameters."""


@dataclass(frozen=True)
class Rates:
    """What the device does in a second: multiplications and additions, bytes read and written."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """A kernel's arithmetic, and the numbers that it reads or writes."""

    kind: str
    flops: float
    numbers: float


class Recorder(TorchDispatchMode):
    """Collects the work of every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[Work] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.work.extend(_work(function.overloadpacket, args, result))
        return result


def _work(operator: Any, args: tuple[Any, ...], result: Any) -> Iterator[Work]:
    if operator is aten.convolution:
        yield _convolution("convolution, forward", result, args[0], args[1])
    elif operator is aten.convolution_backward:
        gradient, feature_map, weight = args[:3]
        for wanted in args[-1][:2]:  # the map's gradient, the weights'; the bias' on the way
            if wanted:
                yield _convolution("convolution, backward", gradient, feature_map, weight)
    elif operator in (aten.mm, aten.addmm):
        left, right = args[-2:]
        flops = 2 * left.shape[0] * left.shape[1] * right.shape[1]
        yield Work("matrix product", flops, left.numel() + right.numel() + result.numel())
    elif operator is aten.native_batch_norm:
        yield Work("BatchNorm", 0, 3 * args[0].numel())
    elif operator is aten.native_batch_norm_backward:
        yield Work("BatchNorm", 0, 5 * args[0].numel())
    elif "pool" in str(operator):
        read, written = args[0], result if isinstance(result, Tensor) else result[0]
        yield Work("pooling", 0, read.numel() + written.numel())


def _convolution(kind: str, output: Tensor, feature_map: Tensor, weight: Tensor) -> Work:
    """Forward and backward alike: three tensors, and a product for each weight and position."""
    flops = 2 * weight.numel() * output.numel() / output.shape[1]
    return Work(kind, flops, output.numel() + feature_map.numel() + weight.numel())


def step_work(network: nn.Module, size: int, batch_size: int) -> list[Work]:
    """Of forward and backward pass on images `(N, 3, size, size)`; nothing is computed."""
    shapes = deepcopy(network).to("meta").train()
    images = torch.empty(batch_size, 3, size, size, device="meta")
    with Recorder() as recorder:
        output = shapes(images)
        logits = output if isinstance(output, Tensor) else output[0]
        labels = torch.empty(batch_size, dtype=torch.int64, device="meta")
        torch.autograd.backward(F.cross_entropy(logits, labels))
    return recorder.work


def floor(
    network: nn.Module, size: int, batch_size: int, dtype: torch.dtype, rates: Rates
) -> dict[str, float]:
    """Seconds of a step at least, by kind of operator."""
    seconds: dict[str, float] = defaultdict(float)
    for work in step_work(network, size, batch_size):
        moved = work.numbers * dtype.itemsize / rates.bytes
        seconds[work.kind] += max(work.flops / rates.flops, moved)
    parameters = sum(p.numel() for p in network.parameters())
    seconds["optimizer"] = OPTIMIZER_PASSES * torch.float32.itemsize * parameters / rates.bytes
    return dict(seconds)


def measured_rates(settings: Settings, *, width: int, mebibytes: int) -> Rates:
    """Of a product of two matrices `(width, width)`, and of a copy of so many mebibytes."""
    options: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype}
    left, right = (torch.randn(width, width, **options) for _ in range(2))
    source = torch.randn(mebibytes * 2**20 // settings.dtype.itemsize, **options)
    target = torch.empty_like(source)

    def product() -> None:
        torch.mm(left, right)

    def copy() -> None:
        target.copy_(source)

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # TF32, which cuDNN's convolutions use
    try:
        medians = alternating_medians(
            {"product": product, "copy": copy}, repeats=settings.repeats, device=settings.device
        )
    finally:
        torch.set_float32_matmul_precision(precision)
    return Rates(2 * width**3 / medians["product"], 2 * mebibytes * 2**20 / medians["copy"])


def measure(name: str, settings: Settings, rates: Rates) -> dict[str, Any]:
    """Floors of the three networks, in seconds by kind, and the ratio of multiply-accumulates."""
    target_size, pretrain_size = SIZES[name]
    target = create(name)
    pretrain = fxscale.downscale(target, pretrain_size, target_size=target_size)
    sizes = (target_size, pretrain_size)
    networks = compared(target, pretrain, sizes, Settings(torch.device("cpu"), batch_size=1))
    return {
        "mac_ratio": pretrain.plan.mac_ratio,
        "seconds": {
            key: floor(*network, settings.batch_size, settings.dtype, rates)
            for key, network in networks.items()
        },
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, entry in results.items():
        total = {key: sum(kinds.values()) for key, kinds in entry["seconds"].items()}
        over = total["target"] / total["pretrain"]
        progressive = total.get("progressive")
        rows.append(
            [
                name,
                f"{1e3 * total['target']:.1f}",
                f"{1e3 * progressive:.1f}" if progressive else "-",
                f"{1e3 * total['pretrain']:.1f}",
                f"{over:.2f}×",
                f"{progressive / total['pretrain']:.2f}×" if progressive else "-",
                f"{entry['mac_ratio']:.2f}×",
                f"{100 * over / entry['mac_ratio']:.0f} %",
            ]
        )
    header = (
        "model, target (ms), progressive resizing (ms), pre-train (ms), over target, "
        "over progressive resizing, MAC ratio, share of it"
    )
    return markdown_table(header.split(", "), rows)


def kinds_table(entry: Mapping[str, Any]) -> str:
    """Milliseconds of each kind of operator, the largest first."""
    seconds = entry["seconds"]
    kinds = sorted(seconds["target"], key=lambda kind: -seconds["target"][kind])
    rows = [[k, *(f"{1e3 * of.get(k, 0):.2f}" for of in seconds.values())] for k in kinds]
    return markdown_table(["ms", *seconds], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    settings = Settings(torch.device(options.device), DTYPES[options.dtype], options.batch_size)
    facts = environment(settings.device)
    if options.rates:
        rates = Rates(1e12 * options.rates[0], 1e9 * options.rates[1])
        facts["device"] = "none: the rates were given"
    else:
        rates = measured_rates(settings, width=options.width, mebibytes=options.mebibytes)
    facts |= {
        "batch": str(settings.batch_size),
        "dtype": options.dtype,
        "matrix product": f"{1e-12 * rates.flops:.4g} TFLOP/s",
        "copy": f"{1e-9 * rates.bytes:.4g} GB/s, read and written",
    }
    results = {name: measure(name, settings, rates) for name in options.models}
    parts = [f"## {name}\n\n{kinds_table(entry)}\n" for name, entry in results.items()]
    text = (
        f"# The least that a training step takes\n\n{bullet_list(facts)}\n\n"
        f"{table(results)}\n\n" + "\n".join(parts)
    )
    figures = {"settings": facts, "rates": asdict(rates), "floors": results}
    write_results(options.output, options.name, text, figures)
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=8192, help="of the matrices multiplied")
    parser.add_argument("--mebibytes", type=int, default=4096, help="copied")
    parser.add_argument(
        "--rates",
        type=float,
        nargs=2,
        metavar=("TFLOP/S", "GB/S"),
        help="of a matrix product and a copy, in place of measuring them",
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    parser.add_argument("--name", default="step_floor", help="name of the result files")
    return parser


if __name__ == "__main__":
    main()
