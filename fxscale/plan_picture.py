"""A picture of both networks of a plan, side by side, one row per layer.

Left the target network, right the pre-train network, between them their feature maps, to scale.
What differs from the target is highlighted. Lines on the outer sides lead from a layer to those
further down that read it: skip connections, branches. Needs matplotlib, of the extra `train`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fxscale.errors import FxscaleError
from fxscale.files import written_whole
from fxscale.plan import ScalePlan
from fxscale.plan_layers import Layer, Side, layers, product_sign
from fxscale.plan_table import format_count
from fxscale.pretrain_network import PretrainNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")
LONGEST = 60_000
"""Pixels of a PNG's longer side: matplotlib draws fewer than 2^16."""

# Inches.
MARGIN, HEAD, FOOT = 0.25, 1.3, 0.6
PITCH, BOX_HEIGHT, MAP_WIDTH = 0.3, 0.22, 1.5
GAP, LANE, LETTER = 0.1, 0.09, 0.076

TARGET, PRETRAIN, INK, FAINT, LINE = "#4c566a", "#d9822b", "#22272e", "#7d8794", "#a9b1bc"
HIGHLIGHT = {"facecolor": "#ffd9a8", "edgecolor": "none", "boxstyle": "round,pad=0.16"}
FILL = {
    "input": "#ffffff",
    "conv": "#e6eef8",
    "pool": "#e4f2e7",
    "linear": "#f0e7f7",
    "other": "#f3f3f3",
}


def check_drawing(path: str | Path) -> None:
    """Raises `FxscaleError` unless a picture can be drawn into a file of this name."""
    if Path(path).suffix.lower() not in FORMATS:
        raise FxscaleError(
            f"{path}: the suffix of a picture says its format; write one of {', '.join(FORMATS)}"
        )
    if find_spec("matplotlib") is None:
        raise FxscaleError(
            "drawing needs matplotlib, which is not installed; it comes with the extra `train`: "
            "pip install 'fxscale[train]'"
        )


def save_picture(network: PretrainNetwork, target: nn.Module, path: str | Path) -> None:
    """Draw a pre-train network beside its target into a file: SVG, PNG or PDF by its suffix.

    `network` is what `fxscale.downscale(target, ...)` returned. Text stays text in an SVG; a PNG
    has 150 pixels per inch, fewer for networks of more than a thousand layers.

    **Raises:** `FxscaleError` for another suffix, or where matplotlib is not installed.
    """
    check_drawing(path)
    import matplotlib

    kind = Path(path).suffix.lower().removeprefix(".")
    figure = draw(network, target)
    dpi = min(150.0, LONGEST / max(figure.get_size_inches()))
    # Without dates and random names, so that the same network gives the same file.
    undated: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "fxscale"}
    with matplotlib.rc_context(style), written_whole(path) as partial:
        figure.savefig(partial, format=kind, dpi=dpi, facecolor="white", metadata=undated)


def draw(network: PretrainNetwork, target: nn.Module) -> Figure:
    """The picture as a figure of matplotlib."""
    return _Picture(network.plan, layers(network, target)).figure


@dataclass(frozen=True)
class Lane:
    """A line from one layer down to all that read it, `place` lanes away from the boxes."""

    source: int
    readers: tuple[int, ...]
    place: int


def lanes(sides: Sequence[Side | None]) -> list[Lane]:
    """The lines for whatever is not read from the box right above; short ones lie closest."""
    boxes = [row for row, side in enumerate(sides) if side is not None]
    above = dict(zip(boxes[1:], boxes, strict=False))
    readers: dict[int, list[int]] = {}
    for row, side in enumerate(sides):
        for source in side.reads if side else ():
            if above.get(row) != source:
                readers.setdefault(source, []).append(row)
    found: list[Lane] = []
    for source, rows in sorted(readers.items(), key=lambda item: item[1][-1] - item[0]):
        taken = {
            lane.place for lane in found if lane.source < rows[-1] and source < lane.readers[-1]
        }
        place = min(set(range(len(taken) + 1)) - taken)
        found.append(Lane(source, tuple(rows), place))
    return found


@dataclass(frozen=True)
class _Columns:
    """Where the texts in a box stand, and how wide it is, for the longest that occur."""

    channels: float
    window: float
    stride: float
    padding: float
    width: float

    @staticmethod
    def of(rows: Sequence[Layer]) -> _Columns:
        sides = [(row, side) for row in rows for side in (row.target, row.pretrain) if side]
        short = [(row, side) for row, side in sides if row.kind != "linear"]
        channels = GAP + max(
            _length(row.operator for row in rows if row.channels) + GAP + _length(["1024 @"]),
            _length(row.operator for row in rows if not row.channels and row.kind == "pool"),
        )
        window = channels + 0.06
        stride = window + _length(side.window for _, side in short) + 2 * GAP
        padding = stride + _length(row.stride for row in rows) + 2 * GAP
        padding += _length(side.padding for _, side in short)
        linear = window + _length(side.window for row, side in sides if row.kind == "linear")
        return _Columns(channels, window, stride, padding, max(padding, linear) + GAP)


class _Picture:
    """The figure; x and y in inches from its upper left corner."""

    def __init__(self, plan: ScalePlan, rows: Sequence[Layer]) -> None:
        from matplotlib.figure import Figure

        large, small = lanes([row.target for row in rows]), lanes([row.pretrain for row in rows])
        self.columns = _Columns.of(rows)
        label = _length(product_sign(row.pretrain.size) for row in rows) + 2 * GAP
        self.left = MARGIN + _length(row.name for row in rows) + _width(large)
        self.centre = self.left + self.columns.width + label + MAP_WIDTH
        self.right = self.centre + MAP_WIDTH + label
        self.scale = MAP_WIDTH / max(plan.target_size)
        width = self.right + self.columns.width + _width(small) + MARGIN
        height = HEAD + PITCH * len(rows) + FOOT
        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self._head(plan)
        for x, outward, sides, found in (
            (self.left, -1, [row.target for row in rows], large),
            (self.right, 1, [row.pretrain for row in rows], small),
        ):
            self._connections(x, sides)
            self._lines(x if outward < 0 else x + self.columns.width, outward, found)
        for row, layer in enumerate(rows):
            self._layer(_y(row), layer)
        self._foot(height - FOOT / 2)

    def _head(self, plan: ScalePlan) -> None:
        sizes = f"{product_sign(plan.target_size)} → {product_sign(plan.pretrain_size)}"
        self._text(MARGIN, 0.36, f"{plan.model}, {sizes}", fontsize=17, weight="bold")
        macs = [f"{format_count(count)} MACs" for count in (plan.target_macs, plan.pretrain_macs)]
        less = f"{macs[1]}, {plan.mac_ratio:.2f} times fewer"
        for x, colour, align, title, note in (
            (self.left, TARGET, "left", "target network", macs[0]),
            (self.centre, INK, "center", "feature maps", "to scale"),
            (self.right, PRETRAIN, "left", "pre-train network", less),
        ):
            self._text(x, 0.82, title, fontsize=12.5, weight="bold", color=colour, ha=align)
            self._text(x, 1.04, note, fontsize=9.5, color=FAINT, ha=align)

    def _foot(self, y: float) -> None:
        self._text(self.left, y, "highlighted", bbox=HIGHLIGHT, weight="bold")
        note = (
            "differs from the target    "
            "64 @ 7×7 /2: 64 kernels of 7×7 at stride 2    "
            "pad 0/1: nothing before, one pixel after"
        )
        self._text(self.left + 0.95, y, note, color=FAINT)

    def _layer(self, y: float, layer: Layer) -> None:
        self._text(MARGIN, y, layer.name, fontsize=8, color=FAINT)
        if layer.target is not None:
            self._box(self.left, y, layer, layer.target, layer.target)
            self._map(y, -1, layer.target, TARGET)
        self._box(self.right, y, layer, layer.pretrain, layer.target)
        self._map(y, 1, layer.pretrain, PRETRAIN)

    def _box(self, x: float, y: float, layer: Layer, side: Side, target: Side | None) -> None:
        """A layer in words; those that `target` says otherwise are highlighted."""
        from matplotlib.patches import FancyBboxPatch

        inserted = target is None
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y - BOX_HEIGHT / 2),
                self.columns.width,
                BOX_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.05",
                facecolor=HIGHLIGHT["facecolor"] if inserted else FILL[layer.kind],
                edgecolor=PRETRAIN if inserted else LINE,
                linestyle="--" if inserted else "-",
                linewidth=0.8,
            )
        )
        self._text(x + GAP, y, layer.operator)
        if layer.channels is not None:
            self._text(x + self.columns.channels, y, f"{layer.channels} @", ha="right")
        for at, text, old, align in (
            (self.columns.window, side.window, target and target.window, "left"),
            (self.columns.padding, side.padding, target and target.padding, "right"),
        ):
            changed = {"bbox": HIGHLIGHT, "weight": "bold"} if text != (old or "") else {}
            self._text(x + at, y, text, ha=align, **changed)
        self._text(x + self.columns.stride, y, layer.stride)

    def _map(self, y: float, direction: int, side: Side, colour: str) -> None:
        """A bar from the centre outwards, as long as the map's longest side, and its size."""
        from matplotlib.patches import Rectangle

        if not side.size:
            return
        length = direction * self.scale * max(side.size)
        corner = (self.centre, y - BOX_HEIGHT / 2)
        self.axes.add_patch(
            Rectangle(corner, length, BOX_HEIGHT, facecolor=colour, edgecolor="white", alpha=0.75)
        )
        align = "left" if direction > 0 else "right"
        x = self.centre + length + direction * 0.06
        self._text(x, y, product_sign(side.size), fontsize=8, color=colour, ha=align)

    def _connections(self, x: float, sides: Sequence[Side | None]) -> None:
        """From box to box, where the lower one reads the upper one."""
        boxes = [row for row, side in enumerate(sides) if side is not None]
        for upper, lower in pairwise(boxes):
            side = sides[lower]
            if side is not None and upper in side.reads:
                ends = (_y(upper) + BOX_HEIGHT / 2, _y(lower) - BOX_HEIGHT / 2)
                self.axes.plot((x + self.columns.width / 2,) * 2, ends, color=LINE, linewidth=1.2)

    def _lines(self, x: float, outward: int, found: Sequence[Lane]) -> None:
        for lane in found:
            far = x + outward * LANE * (lane.place + 1.5)
            down, up = _y(lane.source) + 0.05, _y(lane.readers[-1]) - 0.05
            self.axes.plot(
                (x, far, far), (down, down, up), color=LINE, linewidth=1.0, solid_joinstyle="round"
            )
            for reader in lane.readers:
                self.axes.annotate(
                    "",
                    xy=(x, _y(reader) - 0.05),
                    xytext=(far, _y(reader) - 0.05),
                    arrowprops={
                        "arrowstyle": "-|>,head_length=0.25,head_width=0.12",
                        "color": LINE,
                        "linewidth": 1.0,
                        "shrinkA": 0,
                        "shrinkB": 0,
                    },
                )

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        if text:
            look: dict[str, Any] = {"fontsize": 8.5, "color": INK, "va": "center_baseline"} | style
            self.axes.text(x, y, text, **look)


def _length(texts: Iterable[str]) -> float:
    """Inches that the longest of the texts takes at most."""
    return LETTER * max(map(len, texts), default=0)


def _width(found: Sequence[Lane]) -> float:
    return LANE * (max((lane.place for lane in found), default=-1) + 3)


def _y(row: int) -> float:
    """The middle of a row."""
    return HEAD + PITCH * (row + 0.5)
