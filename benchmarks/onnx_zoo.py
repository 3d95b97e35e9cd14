"""Both networks of many models, exported to ONNX and held against torch in onnxruntime.

    python -m benchmarks.onnx_zoo                                    # everything, many hours
    python -m benchmarks.onnx_zoo --models torchvision/resnet18 --variants float32
    python -m benchmarks.onnx_zoo --table                            # the table of what is there

One JSON line for each model, network and variant is appended to `onnx_zoo.jsonl` as soon as it is
known; lines that are there are not measured again, so that a run can be stopped and resumed.

Fresh networks hide mistakes: BatchNorm has mean 0 and variance 1, blocks start as their shortcuts,
and signals die out on the way. So normalisation weights are drawn anew and BatchNorm statistics
estimated over images of all kinds, before anything is exported. Deep residual networks then amplify
rounding until float16 says nothing: there, the weights are halved. Outcomes:

1. `equal`: valid by `onnx.checker`, and torch's outputs within the dtype's tolerance;
2. `different`: exported, and not equal, with the first diverging layer; must never happen unseen;
3. `exporter`, `runtime`: torch.onnx or onnxruntime cannot do it; `detail` has their words;
4. `refused`: fxscale's compiler cannot do it, or the model cannot be built: no matter of ONNX.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import nn

import fxscale
from benchmarks._env import environment
from benchmarks._onnx_zoo_models import model_names
from benchmarks._table import bullet_list, markdown_table
from fxscale.files import written_whole
from fxscale.models.registry import create
from fxscale.onnx import upscale_with_onnx
from fxscale.onnx.feeds import Feed, Input, real_images
from fxscale.onnx.reference import Reference
from fxscale.passes.inputs import first_convolution, image_channels

NETWORKS = ("pretrain", "target")
VARIANTS = ("float32", "float16", "channels_last")
F16_OVER_F32 = 2.0**13
"""How much coarser a step of float16 is than one of float32."""
TOLD_APART = 1e-2
"""Ten times this rounding error is the most that counts as equal in float16."""
HALVINGS = 4


@dataclass(frozen=True)
class Outcome:
    """One line of the file: what became of one network of one model in one variant.

    `relative` is the largest relative error over outputs and batches, `top1` the smallest
    agreement; `inverse` the largest relative error of the inverse by ONNX against `upscale_state`.
    """

    model: str
    network: str
    variant: str
    outcome: str
    detail: str = ""
    relative: float | None = None
    top1: float | None = None
    inverse: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.model, self.network, self.variant


def measure(
    name: str, variants: Sequence[str], done: set[tuple[str, str, str]]
) -> Iterator[Outcome]:
    """Both networks of one model in every variant that is not `done`."""
    wanted = [(n, v) for n in NETWORKS for v in variants if (name, n, v) not in done]
    if not wanted:
        return
    torch.manual_seed(0)
    try:
        target = create(name)
        wake(target)
        small = fxscale.downscale(target)
    except fxscale.FxscaleError as error:
        for network, variant in wanted:
            yield Outcome(name, network, variant, "refused", without_folders(str(error)))
        return
    estimate(small, small.plan.pretrain_size)
    calm(small, small.plan.pretrain_size)
    inverse = inverse_error(small)
    target.load_state_dict(fxscale.upscale_state(small))
    estimate(target, small.plan.target_size)
    calm(target, small.plan.target_size)
    for network, variant in wanted:
        module, size = (
            (small, small.plan.pretrain_size)
            if network == "pretrain"
            else (target, small.plan.target_size)
        )
        outcome, detail, relative, top1 = compare(module, size, variant)
        yield Outcome(name, network, variant, outcome, detail, relative, top1, inverse)


def without_folders(words: str) -> str:
    """A message without the folders of this machine in which packages lie."""
    return re.sub(r"[^\s(]*site-packages/", "", words)


def wake(network: nn.Module) -> None:
    """Draw anew what starts as a constant: weights of normalisations, scales of layers."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                centre = 0.0 if parameter.flatten()[0] == 0 else 1.0
                parameter.uniform_(centre - 0.25, centre + 0.25)


def estimate(network: nn.Module, size: Sequence[int]) -> None:
    """BatchNorm statistics over noise, smooth images and the digits that networks are compared on.

    On images of a kind that the statistics do not know, signals grow from block to block, and the
    rounding errors of torch and of onnxruntime with them.
    """
    images = torch.randn(image_shape(network, 8, size))
    coarse = torch.randn(image_shape(network, 4, (8, 8)))
    images[::2] = F.interpolate(coarse, size=tuple(size), mode="bilinear")
    digits = real_images([Input("images", tuple(images.shape), images.dtype)])
    seen = [images] if digits is None else [images, *digits.tensors]
    fxscale.reestimate_batchnorm(network, [torch.cat(seen)])


def calm(network: nn.Module, size: Sequence[int]) -> None:
    """Halve the weights of normalisations until rounding can be told from mistakes in float16.

    Before the sum of a residual block, half the weight is half of what the block adds. Elsewhere
    the next normalisation takes the factor out again.
    """
    images = torch.randn(image_shape(network, 7, size))
    digits = real_images([Input("images", tuple(images.shape), images.dtype)])
    feeds = [Feed("random", (images,)), *([] if digits is None else [digits])]
    for _ in range(HALVINGS):
        reference = Reference(network)
        rounding = max(max(reference.roundings(feed)) for feed in feeds)
        if F16_OVER_F32 * rounding <= TOLD_APART:
            return
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                    module.weight.mul_(0.5)
        estimate(network, size)


def inverse_error(small: nn.Module) -> float:
    """Of all entries, the largest error of the inverse by ONNX, relative to the largest weight."""
    expected, found = fxscale.upscale_state(small), upscale_with_onnx(small)
    errors = [0.0]
    for key, value in expected.items():
        if value.is_floating_point() and value.numel():
            scale = float(value.abs().max()) or 1.0
            errors.append(float((found[key] - value).abs().max()) / scale)
    return max(errors)


def compare(
    module: nn.Module, size: Sequence[int], variant: str
) -> tuple[str, str, float | None, float | None]:
    """`(outcome, detail, relative, top1)` of one export; the module is left as it was."""
    batches = None
    if variant == "float16":
        module = module.half()
    elif variant == "channels_last":
        module = module.to(memory_format=torch.channels_last)
        images = torch.randn(image_shape(module, 3, size))
        batches = [images.contiguous(memory_format=torch.channels_last)]
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            fxscale.export_onnx(module, path, input_size=size)
            report = fxscale.validate_onnx(path, module, batches=batches)
    except fxscale.FxscaleError as error:
        return "exporter", str(error), None, None
    finally:
        module.float().to(memory_format=torch.contiguous_format)
    failures = [run.error for run in report.runs if run.error is not None]
    if failures:
        return "runtime", failures[0], None, None
    relative = max((error.relative or 0.0 for error in report.errors), default=None)
    top1 = min((error.top1 for error in report.errors if error.top1 is not None), default=None)
    if report.equal:
        return "equal", "", relative, top1
    faults = [*report.faults, *(error.fault for error in report.errors if error.fault is not None)]
    where = [str(report.divergence)] if report.divergence else list(report.notes)
    return "different", "; ".join([*faults, *where]), relative, top1


def image_shape(network: nn.Module, batch: int, size: Sequence[int]) -> tuple[int, ...]:
    return batch, image_channels(network, first_convolution(network)), *size


def read(path: Path) -> list[Outcome]:
    """The lines of a file; a last one that was cut off in the middle is measured again."""
    if not path.exists():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(True) if line[-1] == "\n"]
    return [Outcome(**json.loads(line)) for line in whole]


def write(path: Path, outcomes: Sequence[Outcome]) -> None:
    with written_whole(path) as partial:
        lines = [json.dumps(asdict(outcome)) + "\n" for outcome in outcomes]
        partial.write_text("".join(lines), encoding="utf-8")


def summary(outcomes: Sequence[Outcome]) -> str:
    """Counts by network and variant, and every export that is not equal, in its own words."""
    kinds = ("equal", "different", "exporter", "runtime", "refused")
    rows = []
    for network in NETWORKS:
        for variant in VARIANTS:
            own = [o for o in outcomes if (o.network, o.variant) == (network, variant)]
            counts = Counter(o.outcome for o in own)
            tried = len(own) - counts["refused"]
            share = f"{counts['equal'] / tried:.1%}" if tried else "-"
            worst = max((o.relative or 0.0 for o in own if o.outcome == "equal"), default=0.0)
            rows.append(
                [f"{network}, {variant}", *(str(counts[k]) for k in kinds), share, f"{worst:.1e}"]
            )
    header = ["network", *kinds, "equal of those tried", "largest relative error"]
    inverse = max((o.inverse or 0.0 for o in outcomes), default=0.0)
    others = [
        f"- {o.model}, {o.network}, {o.variant}: {o.outcome}: {' '.join(o.detail.split())[:300]}"
        for o in outcomes
        if o.outcome != "equal"
    ]
    text = f"{markdown_table(header, rows)}\n\nThe inverse as an ONNX graph against "
    text += f"`upscale_state`: largest relative error {inverse:.1e}.\n"
    return text + ("\n" + "\n".join(others) + "\n" if others else "")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", help="names of the registry; default: all")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "onnx_zoo.jsonl"
    outcomes = read(path)
    if not options.table:
        done = {outcome.key for outcome in outcomes}
        for name in options.models or model_names():
            for outcome in measure(name, options.variants, done):
                outcomes.append(outcome)
                write(path, outcomes)
                print(json.dumps(asdict(outcome)), flush=True)
        facts = environment(torch.device("cpu"))
        text = f"# ONNX\n\n{bullet_list(facts)}\n\n{summary(outcomes)}"
        with written_whole(options.output / "onnx_zoo.md") as partial:
            partial.write_text(text, encoding="utf-8")
    print(summary(outcomes))


if __name__ == "__main__":
    main()
