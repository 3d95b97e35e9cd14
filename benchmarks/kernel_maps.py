"""How much accuracy survives the transition, by the map that enlarges kernels.

    python -m benchmarks.tiny_imagenet --data tiny-imagenet-40.tar.gz --learning-rate 0.05
    python -m benchmarks.kernel_maps --data tiny-imagenet-40.tar.gz

Takes the pre-train networks that `tiny_imagenet.py` left in `--checkpoints` and enlarges each with
every map, all with the amplitude `product(k' / k)`. *Kept* is the target's accuracy, not one step
trained, as a share of the pre-train network's. The maps of `n_in` to `n_out` taps:

- bilinear, bicubic: interpolation of the kernel, half-pixel centres, clamped (the paper: bilinear);
- adjoint: the transpose of the operator that shrinks images bilinearly by the kernels' ratio;
- linear at the images' ratio, cubic at the images' ratio: the weights with which samples at the
  positions of the small kernel's taps are read off the large one's grid, where neighbouring taps
  lie as far apart as the two image sizes say (64 / 46) and not as the kernels (3 / 2);
- least squares: the kernel whose response on natural images comes closest to the small one's on
  the same images shrunk (`_least_squares_map.py`).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

import fxscale
from benchmarks._env import environment
from benchmarks._least_squares_map import least_squares
from benchmarks._table import bullet_list, markdown_table, write_results
from fxscale.batchnorm import reestimate_batchnorm
from fxscale.errors import FxscaleError
from fxscale.plan import ScalePlan
from fxscale.resample import apply_operators, interpolation_operator
from fxscale.training import ImageSet, Recipe, SmallResNet, Trainer, image_folder

NAME = "kernel_maps"
BATCHNORM_BATCHES = 20
BATCH_SIZE = 64
Map = Callable[[int, int], Tensor]


def maps(image_ratio: float) -> dict[str, Map]:
    return {
        "bilinear": partial(interpolation_operator, interpolation="bilinear"),
        "bicubic": partial(interpolation_operator, interpolation="bicubic"),
        "adjoint": lambda n_in, n_out: _read_off(n_in, n_out, n_out / n_in, _linear),
        "linear at the images' ratio": partial(_read_off, ratio=image_ratio, profile=_linear),
        "cubic at the images' ratio": partial(_read_off, ratio=image_ratio, profile=_cubic),
        "least squares": partial(least_squares, ratio=image_ratio),
    }


def _read_off(n_in: int, n_out: int, ratio: float, profile: Callable[[float], float]) -> Tensor:
    """`(n_out, n_in)`: how much each large tap contributes to a sample at each small tap."""
    operator = torch.zeros(n_out, n_in, dtype=torch.float64)
    for row, column in product(range(n_out), range(n_in)):
        position = (column - (n_in - 1) / 2) * ratio
        operator[row, column] = profile(abs(position - (row - (n_out - 1) / 2)))
    # Columns of equal sum: a constant image keeps its response.
    return operator / operator.sum(0) * (n_out / n_in)


def _linear(distance: float) -> float:
    return max(0.0, 1 - distance)


def _cubic(distance: float, a: float = -0.75) -> float:
    if distance < 1:
        return ((a + 2) * distance - (a + 3)) * distance**2 + 1
    return (((distance - 5) * distance + 8) * distance - 4) * a if distance < 2 else 0.0


def enlarged(plan: ScalePlan, state: Mapping[str, Tensor], enlarge: Map) -> dict[str, Tensor]:
    """The target's state with `enlarge` in the place of the library's interpolation."""
    result = {}
    for m in plan.state:
        axes = enumerate(zip(m.pretrain_view, m.target_view, strict=True))
        operators = {axis: enlarge(n_in, n_out) for axis, (n_in, n_out) in axes if n_in != n_out}
        viewed = state[m.key].reshape(m.pretrain_view)
        result[m.key] = apply_operators(viewed, operators, m.gain).reshape(m.target_shape)
    return result


def kept(images: ImageSet, path: Path) -> Iterator[tuple[str, float, float]]:
    """Map, accuracy kept, and the same with BatchNorm re-estimated, of one checkpoint."""
    content = torch.load(path, weights_only=True)
    settings, epoch = content["settings"], len(content["records"])
    size, small_size = settings["target_size"], settings["pretrain_size"]
    trainer = Trainer(images, Recipe(**settings["recipe"]), seed=_seed(path))
    target = SmallResNet(
        3, settings["classes"], widths=tuple(settings["widths"]), blocks=settings["blocks"]
    )
    small = fxscale.downscale(target, small_size, target_size=size)
    small.load_state_dict(content["network"])
    before = trainer.evaluate(trainer.stage("pre-train", small, small_size))
    for name, enlarge in maps(size / small_size).items():
        target.load_state_dict(enlarged(small.plan, small.state_dict(), enlarge))
        stage = trainer.stage("target", target, size)
        after = trainer.evaluate(stage)
        chosen = torch.Generator().manual_seed(epoch)
        shuffled = trainer.images(size).train_images[
            torch.randperm(len(images.train_images), generator=chosen)
        ]
        reestimate_batchnorm(target, islice(torch.split(shuffled, BATCH_SIZE), BATCHNORM_BATCHES))
        yield name, after / before, trainer.evaluate(stage) / before


def _seed(path: Path) -> int:
    return int(path.stem.split("-")[1].removeprefix("seed"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="tarball or folder")
    parser.add_argument("--checkpoints", type=Path, default=Path("data/tiny_imagenet"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)

    paths = sorted(options.checkpoints.glob("resized-seed*-epoch*.pt"))
    if not paths:
        raise FxscaleError(f"{options.checkpoints}: no checkpoints. Run tiny_imagenet first")
    settings = torch.load(paths[0], weights_only=True)["settings"]
    images = image_folder(
        options.data,
        classes=settings["classes"],
        size=settings["target_size"],
        held_out=settings["held_out"],
    )
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for path in paths:
        epoch = int(path.stem.rpartition("epoch")[2])
        for name, after, reestimated in kept(images, path):
            found[name, epoch].append((after, reestimated))
            print(f"{path.stem}  {name:30s} {after:.1%}  {reestimated:.1%}", flush=True)
    facts = environment(torch.device("cpu")) | {"checkpoints": ", ".join(p.stem for p in paths)}
    epochs = sorted({epoch for _, epoch in found})
    header = ["map", *(f"epoch {e}, {how}" for e in epochs for how in ("as is", "re-estimated"))]
    means = {
        key: [mean(column) for column in zip(*rows, strict=True)] for key, rows in found.items()
    }
    rows = [
        [name, *(f"{100 * value:.1f} %" for e in epochs for value in means[name, e])]
        for name in dict.fromkeys(name for name, _ in found)
    ]
    text = (
        f"# Accuracy kept, by the map that enlarges kernels\n\n{bullet_list(facts)}\n\n"
        f"Means over the seeds of the target's accuracy right after the transition as a share of "
        f"the pre-train network's, without and with BatchNorm re-estimated.\n\n"
        f"{markdown_table(header, rows)}\n"
    )
    shares = [{"map": n, "epoch": e, "kept": rows} for (n, e), rows in found.items()]
    write_results(options.output, NAME, text, {"settings": facts, "shares": shares})
    print(f"\n{text}")


if __name__ == "__main__":
    main()
