"""Grids against torch itself: an image of coordinates says where every pixel of a map looks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxscale
from fxscale.passes.axes import Axis, Refit, Split
from fxscale.passes.grids import (
    Grid,
    drift,
    image_grid,
    merged_grid,
    part_grids,
    through_refit,
    through_window,
)
from tests.passes.coordinates import coordinates, off_centre
from tests.passes.windows import NODE, window


def fitted(looks: Tensor, clean: Tensor) -> tuple[float, float]:
    """Step and offset of `looks[i] = step * i + offset`, read where no padding mixes in."""
    index = torch.arange(looks.numel(), dtype=torch.float64)[clean]
    values = looks[clean]
    step = float((values[-1] - values[0]) / (index[-1] - index[0]))
    torch.testing.assert_close(values, values[0] + step * (index - index[0]))
    return step, float(values[0] - step * index[0])


def averaged(signal: Tensor, kernel_size: int, **arguments: int) -> Tensor:
    kernel = torch.full((1, 1, kernel_size), 1 / kernel_size, dtype=torch.float64)
    return F.conv1d(signal, kernel, **arguments)


windows = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 7),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 3),
        "dilation": st.integers(1, 2),
    }
)


@given(st.integers(400, 420), st.lists(windows, min_size=1, max_size=3))
def test_stacked_convolutions_look_where_their_grid_says(
    length: int, stack: list[dict[str, int]]
) -> None:
    grid: Grid | None = image_grid(length)
    ramp = torch.arange(length, dtype=torch.float64).view(1, 1, -1)
    ones = torch.ones_like(ramp)
    for layer in stack:
        ramp, ones = averaged(ramp, **layer), averaged(ones, **layer)
        plain = {name: layer[name] for name in ("stride", "dilation")}
        padding = (layer["padding"],) * 2
        assert grid is not None
        grid = through_window(
            grid, window(kernel_size=layer["kernel_size"], **plain), layer["kernel_size"], padding
        )
    clean = (ones.flatten() - 1).abs() < 1e-9  # the zeros of a padding lower the average of ones
    assert grid is not None
    assert grid.length == ramp.numel()
    assert grid.depth == len(stack)
    assert (grid.step, grid.offset) == pytest.approx(fitted(ramp.flatten(), clean))


@given(
    length=st.integers(12, 30),
    kernel_size=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    output_padding=st.integers(0, 2),
)
def test_transposed_convolutions_look_where_their_grid_says(
    length: int, kernel_size: int, stride: int, padding: int, output_padding: int
) -> None:
    output_padding = min(output_padding, stride - 1)
    padding = min(padding, kernel_size - 1)
    weights = torch.ones(1, 1, kernel_size, dtype=torch.float64)
    arguments = {"stride": stride, "padding": padding, "output_padding": output_padding}
    # Each input pixel is painted over `kernel_size` output pixels: the centre of its paint is
    # where it lies on the output, so that output index maps back to input index.
    spikes = torch.eye(length, dtype=torch.float64).unsqueeze(1)
    painted = F.conv_transpose1d(spikes, weights, **arguments).squeeze(1)
    whole = painted.sum(1) == kernel_size
    places = torch.arange(painted.shape[1], dtype=torch.float64)
    centres = (painted * places).sum(1) / kernel_size
    step, offset = fitted(centres, whole)
    out = through_window(
        image_grid(length),
        window(kernel_size=kernel_size, transposed=True, stride=stride,
               output_padding=output_padding),
        kernel_size,
        (padding, padding),
    )  # fmt: skip
    assert out is not None
    assert out.length == painted.shape[1]
    assert (out.step, out.offset) == pytest.approx((1 / step, -offset / step))


@given(source=st.integers(2, 20), length=st.integers(2, 20))
def test_a_refit_map_looks_where_interpolation_does(source: int, length: int) -> None:
    ramp = torch.arange(source, dtype=torch.float64).view(1, 1, -1)
    looks = F.interpolate(ramp, length, mode="linear", align_corners=False).flatten()
    axis = Axis(length, spatial=True)
    grid = through_refit(image_grid(source), Refit(NODE, axis, axis, None), length)
    places = torch.arange(length, dtype=torch.float64) * grid.step + grid.offset
    torch.testing.assert_close(places.clamp(0, source - 1), looks)  # torch clamps at the borders


def test_drift_by_hand() -> None:
    # 2x2 windows without padding over 8 pixels: 7 pixels, centred as the image is. With one
    # pixel of padding before: 8 pixels whose centre lies half a pixel before the image's.
    two = window(kernel_size=2)
    bare = through_window(image_grid(8), two, 2, (0, 0))
    before = through_window(image_grid(8), two, 2, (1, 0))
    assert bare is not None
    assert before is not None
    assert (bare.length, bare.offset, bare.off_centre) == (7, 0.5, 0)
    assert (before.length, before.offset, before.off_centre) == (8, -0.5, -0.5)
    assert drift(before, bare) == -0.5
    # With stride 2 the same half pixel of the image is a quarter of the map's.
    strided = window(kernel_size=2, stride=2)
    even, uneven = (through_window(image_grid(8), strided, 2, p) for p in ((0, 0), (1, 0)))
    assert even is not None
    assert uneven is not None
    assert (even.off_centre, uneven.off_centre) == (0, -0.5)
    assert uneven.step == 2


def test_padding_a_map_moves_its_first_pixel_only() -> None:
    grid = Grid(5, step=2.0, offset=3.0, image=20)
    assert grid.padded(2, -1) == Grid(6, step=2.0, offset=-1.0, image=20)


def stack(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def conv(kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> nn.Module:
    return nn.Conv2d(3, 3, kernel_size, stride, padding, dilation)


class Block(nn.Module):
    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.body = stack(conv(3, stride, 1), nn.BatchNorm2d(3), nn.ReLU(), conv(3, 1, 1))
        self.fit = nn.Identity() if stride == 1 else conv(1, stride)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x) + self.fit(x)
        return result


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.five = stack(conv(3, 1, 1), conv(3, 1, 1))
        self.pool = stack(nn.MaxPool2d(3, 1, 1), conv(1))

    def forward(self, x: Tensor) -> Tensor:
        branches = [x, self.five(x), self.pool(x)]
        return torch.cat(branches, 1)[:, :3]


NETWORKS = {
    "chain": (stack(conv(7, 2, 3), nn.ReLU(), conv(3, 1, 1), conv(3, 2, 1)), 56),
    "lone kernels": (stack(*(stack(conv(3, 1, 1), conv(1)) for _ in range(3))), 42),
    "pools": (stack(conv(5, 1, 2), nn.MaxPool2d(3, 2, ceil_mode=True), conv(3), conv(3, 1, 1)), 35),
    "dilated": (stack(conv(3, 1, 2, 2), conv(3, 1, 4, 4), conv(3, 2, 1)), 42),
    "residual": (stack(conv(7, 2, 3), Block(), Block(2), Block(), Block(2), Block()), 112),
    "inception": (stack(conv(3, 2, 1), Inception(), conv(3, 2, 1), Inception()), 56),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_plan_reports_where_the_networks_look(name: str) -> None:
    """Sizes and drifts, measured on the finished graphs, paddings and crops included."""
    target, length = NETWORKS[name]
    size = (length, length - length // 7)
    small = fxscale.downscale(target, [round(n * 5 / 7) for n in size], target_size=size)
    same = fxscale.downscale(target, size, target_size=size, keep=["*"])
    maps = [m for m in small.plan.feature_maps if m.node != "input_1"]
    assert maps
    for position in range(2):
        wanted = coordinates(same, size[position], position)
        found = coordinates(small, small.plan.pretrain_size[position], position)
        for feature_map in maps:
            here, there = found[feature_map.node], wanted[feature_map.node]
            assert here.numel() == feature_map.pretrain_size[position]
            assert there.numel() == feature_map.target_size[position]
            apart = off_centre(here, small.plan.pretrain_size[position]) - off_centre(
                there, size[position]
            )
            assert feature_map.drift[position] == pytest.approx(apart, abs=1e-6), feature_map


@pytest.mark.parametrize(("blocks", "block", "step"), [(5, 4, 1.0), (3, 2, 4.0), (6, 3, 2.0)])
def test_blocks_look_at_the_middle_of_their_pixels(blocks: int, block: int, step: float) -> None:
    source = Grid(blocks * block, step, 1.5, 64)
    looks = source.step * torch.arange(source.length, dtype=torch.float64) + source.offset
    parts = (Axis(blocks, spatial=True), Axis(block, spatial=False))
    split = Split(NODE, Axis(source.length, spatial=True), parts, (False, True))
    found = part_grids(source, split, (blocks, block))[parts[0]]
    middles = looks.reshape(blocks, block).mean(1)
    assert (found.step, found.offset) == fitted(middles, torch.ones(blocks, dtype=torch.bool))
    assert (found.length, found.image) == (blocks, 64)


def test_windows_are_images_of_their_own() -> None:
    parts = (Axis(8, spatial=True), Axis(7, spatial=True))
    split = Split(NODE, Axis(56, spatial=True), parts, (False, True))
    found = part_grids(image_grid(40), split, (8, 5))
    assert found == {parts[0]: image_grid(8), parts[1]: image_grid(5)}


def test_windows_put_together_cover_what_they_were_taken_from() -> None:
    source = Grid(40, 4.0, 1.5, 160)
    same, shorter = merged_grid(source, 40), merged_grid(source, 32)
    assert (same.step, same.offset) == (source.step, source.offset)
    assert shorter.step * 32 == source.step * 40
    assert shorter.offset - shorter.step / 2 == source.offset - source.step / 2
