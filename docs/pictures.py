"""The pictures of how-it-works.md: `python docs/pictures.py` writes them to docs/pictures/.

Every number in them is computed, by fxscale where it is fxscale's to compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import ConnectionPatch, Rectangle
from torch import Tensor

import fxscale
from fxscale import plan_picture
from fxscale.models import create
from fxscale.plan import StateMap
from fxscale.resample import interpolation_operator, upscale_entry

FOLDER = Path(__file__).resolve().parent / "pictures"
TARGET, PRETRAIN, WRONG = "#4c566a", "#e08e3c", "#c0392b"


def main() -> None:
    matplotlib.rcParams.update({"font.size": 11, "svg.hashsalt": "fxscale", "svg.fonttype": "path"})
    FOLDER.mkdir(exist_ok=True)
    for draw in (scaling, kernel, interface, grids, networks):
        path = FOLDER / f"{draw.__name__}.svg"
        draw().savefig(path, facecolor="white", metadata={"Date": None})
        text = path.read_text(encoding="utf-8")
        path.write_text("\n".join(map(str.rstrip, text.splitlines())) + "\n", encoding="utf-8")


def scaling() -> Figure:
    """Eq. 2 in one dimension: s times the convolution of shrunk signals is the shrunk result."""
    s, step, end = 1.5, 0.01, 12.0
    x = torch.arange(0, end, step, dtype=torch.float64)

    def image(x: Tensor) -> Tensor:
        bumps = ((3.0, 1.0, 0.5), (5.0, 0.6, 0.3), (7.5, 0.9, 0.8))
        return sum((h * torch.exp(-(((x - c) / w) ** 2)) for c, h, w in bumps), torch.zeros(()))

    def weights(x: Tensor) -> Tensor:
        return torch.where((x >= 0) & (x < 1.5), torch.sin(x * torch.pi / 1.5), torch.zeros(()))

    def convolved(factor: float) -> Tensor:
        a, b = image(factor * x), weights(factor * x)
        full = torch.nn.functional.conv1d(a[None, None], b.flip(0)[None, None], padding=len(b) - 1)
        return full[0, 0, : len(x)] * step

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey="col")
    for row, factor, colour in ((axes[0], 1.0, TARGET), (axes[1], s, PRETRAIN)):
        argument = "x" if factor == 1 else "s x"
        for ax, values, name in (
            (row[0], image(factor * x), f"image  $I({argument})$"),
            (row[1], weights(factor * x), f"kernel  $W({argument})$"),
        ):
            ax.plot(x, values, color=colour, linewidth=2)
            ax.set_title(name)
    axes[0, 2].plot(x, convolved(1.0), color=TARGET, linewidth=2)
    axes[0, 2].set_title(r"feature map  $Y(x) = (I * W)(x)$")
    last = axes[1, 2]
    last.plot(x, convolved(s), color=PRETRAIN, linewidth=2, label="$I(sx) * W(sx)$")
    shrunk = numpy.interp((s * x).numpy(), x.numpy(), convolved(1.0).numpy(), right=0.0)
    last.plot(x, shrunk, color=TARGET, linewidth=1.2, label="$Y(sx)$")
    last.plot(x, s * convolved(s), color=PRETRAIN, linestyle=":", linewidth=4, alpha=0.7,
              label="$s$ times it")  # fmt: skip
    last.set_title("shrunk feature map, $s = 1.5$")
    last.legend(frameon=False, fontsize=10, loc="center right")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    for ax in axes[1]:
        ax.set_xlabel("$x$")
    return figure


def kernel() -> Figure:
    """A 5x5 kernel on its way to 7x7."""
    y, x = torch.meshgrid(torch.arange(5) - 2.0, torch.arange(5) - 2.0, indexing="ij")
    small = torch.exp(-(x**2 + y**2) / 4) * torch.cos(1.1 * x + 0.7 * y)
    stretch = interpolation_operator(5, 7, "bilinear").float()
    stretched = stretch @ small @ stretch.T
    shape, larger = (1, 1, 5, 5), (1, 1, 7, 7)
    state_map = StateMap("weight", "kernel", shape, larger, shape, larger)
    bilinear = upscale_entry(small.reshape(shape), state_map, "bilinear").reshape(7, 7)
    bicubic = upscale_entry(small.reshape(shape), state_map, "bicubic").reshape(7, 7)

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = (
        (small, "pre-train kernel, 5 × 5"),
        (stretched, "bilinear to 7 × 7,\namplitude as it was"),
        (bilinear, "bilinear, times 25 / 49\n(the paper's map)"),
        (bicubic, "bicubic, times 25 / 49\n(fxscale's default)"),
    )
    for ax, (values, title) in zip(figure.subplots(1, 4), panels, strict=True):
        picture = _heatmap(ax, values)
        right = values is not stretched
        ax.set_title(title, fontsize=11)
        ax.set_xlabel(f"sum of taps {float(values.sum()):.2f}", color="black" if right else WRONG)
    figure.colorbar(picture, ax=figure.axes, shrink=0.75, label="weight")
    return figure


def networks() -> Figure:
    """Both networks of the paper's first experiment."""
    target = create("overfeat_fast")
    return plan_picture.draw(fxscale.downscale(target, 147), target)


def _heatmap(ax: Axes, values: Tensor, *, numbers: bool = True) -> AxesImage:
    picture = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set(xticks=[], yticks=[])
    if numbers:
        for row, line in enumerate(values.tolist()):
            for column, value in enumerate(line):
                text = f"{value:.1f}".replace("-0.0", "0.0")
                paint = "white" if abs(value) > 0.6 else "black"
                ax.text(column, row, text, ha="center", va="center", fontsize=7, color=paint)
    return picture


def interface() -> Figure:
    """One row of a fully connected interface, two channels, from 4x4 to 6x6 as in OverFeat-fast."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 4), indexing="ij")
    small = torch.stack((torch.cos(2 * x + y), torch.sin(3 * y - x)))  # (C, H', W')
    before, after = (1, 2 * 4 * 4), (1, 2 * 6 * 6)
    views = (1, 2, 4, 4), (1, 2, 6, 6)
    state_map = StateMap("classifier.weight", "interface", before, after, *views)
    large = upscale_entry(small.reshape(before), state_map, "bilinear").reshape(2, 6, 6)

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplot_mosaic(
        [["row", "row", "row", "row"], ["a", "b", "c", "d"], ["out", "out", "out", "out"]],
        height_ratios=(1, 4, 1),
    )
    for name, values, title in (
        ("row", small, "one row of the weight matrix: $C H' W'$ = 2 · 4 · 4 = 32 inputs"),
        ("out", large, "the same row in the target: $C H W$ = 2 · 6 · 6 = 72 inputs"),
    ):
        _heatmap(axes[name], values.reshape(1, -1), numbers=False)
        axes[name].set_aspect("auto")
        axes[name].axvline(values[0].numel() - 0.5, color="black", linewidth=1.5)
        axes[name].set_title(title)
    for name, values, title in (
        ("a", small[0], "channel 1, 4 × 4"),
        ("b", large[0], "resized, times 16 / 36"),
        ("c", small[1], "channel 2, 4 × 4"),
        ("d", large[1], "resized, times 16 / 36"),
    ):
        _heatmap(axes[name], values)
        axes[name].set_title(title)
    for left, right in (("a", "b"), ("c", "d")):
        arrow = ConnectionPatch(
            (1.05, 0.5), (-0.05, 0.5), "axes fraction", "axes fraction",
            axesA=axes[left], axesB=axes[right], arrowstyle="-|>", mutation_scale=18, linewidth=1.5,
            color=TARGET,
        )  # fmt: skip
        figure.add_artist(arrow)
    return figure


@dataclass(frozen=True)
class Grid:
    """Index `i` of a map looks at the image's pixel `i + offset` (all strides are one here)."""

    length: int
    offset: float

    def behind(self, kernel_size: int, before: int, after: int) -> Grid:
        """Behind a convolution with this kernel and padding."""
        length = self.length + before + after - kernel_size + 1
        return Grid(length, self.offset + (kernel_size - 1) / 2 - before)

    def centre(self) -> float:
        return self.offset + (self.length - 1) / 2


def grids() -> Figure:
    """Where the pixels of four maps look, behind 2x2 kernels padded in two ways."""
    layers, length = 4, 8
    ways = (
        ("2 × 2 kernels, one side more in every layer", [(1, 0)] * layers, WRONG),
        ("2 × 2 kernels, p = 0 then p = 1", [(0, 0), (1, 1)] * (layers // 2), PRETRAIN),
    )
    figure = Figure(figsize=(11, 4), layout="constrained")
    for ax, (title, paddings, colour) in zip(figure.subplots(1, 2), ways, strict=True):
        grid = Grid(length, 0.0)
        middle = grid.centre()
        ax.plot([middle] * 2, [-0.6, layers + 0.5], color=TARGET, linewidth=1, linestyle="--")
        ax.text(middle, -0.75, "centre of the image", ha="center", color=TARGET, fontsize=10)
        for depth in range(layers + 1):
            if depth:
                grid = grid.behind(2, *paddings[depth - 1])
            paint = colour if depth else TARGET
            positions = [grid.offset + i for i in range(grid.length)]
            ax.scatter(positions, [depth] * grid.length, s=55, color=paint, zorder=3)
            frame = Rectangle((positions[0] - 0.5, depth - 0.3), grid.length, 0.6, fill=False,
                              edgecolor=paint, linewidth=1)  # fmt: skip
            ax.add_patch(frame)
            ax.plot(grid.centre(), depth, marker="|", markersize=26, color=paint, markeredgewidth=2)
            name = f"map {depth}" if depth else "image"
            ax.text(-2.9, depth, name, ha="right", va="center", color=paint)
            drift = grid.centre() - middle
            ax.text(
                8.3, depth, f"drift {drift:+.1f}".replace("+0.0", "0"), va="center", color=paint
            )
        ax.set(
            xlim=(-4.5, 10.3),
            ylim=(layers + 0.7, -1.1),
        )
        ax.set_title(title, x=(middle + 4.5) / 14.8)
        ax.axis("off")
    return figure


if __name__ == "__main__":
    main()
