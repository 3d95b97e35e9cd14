"""The inputs of the trace: sizes are checked, arguments bound, nothing allocated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxscale.errors import SizeError, UnsupportedModelError
from fxscale.passes.inputs import (
    BATCH,
    check_rank,
    describe_inputs,
    first_convolution,
    image_channels,
    spatial_rank,
)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)

    def forward(self, image: Tensor, scale: Tensor, flag: bool = False) -> Tensor:
        out: Tensor = self.conv(image) * scale
        return out


@pytest.mark.parametrize(
    ("size", "rank", "expected"),
    [(7, 1, (7,)), (7, 3, (7, 7, 7)), ((5, 6), 2, (5, 6)), ([5, 6], 2, (5, 6))],
)
def test_one_length_per_axis(size: Any, rank: int, expected: tuple[int, ...]) -> None:
    assert check_rank(size, rank, "input_size") == expected


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "input_size must be positive, found 0"),
        (-3, "input_size must be positive, found -3"),
        ((8, 0), r"input_size must be positive, found \(8, 0\)"),
        ((8,), r"input_size=\(8,\) has 1 entries, but the model has 2 spatial axes"),
        ((8, 8, 8), "has 3 entries, but the model has 2 spatial axes"),
        (8.0, "must be an int or one int per spatial axis, found 8.0"),
        ("8", "must be an int or one int per spatial axis, found '8'"),
        (True, "must be an int or one int per spatial axis, found True"),
        ((8, 8.5), "must be an int or one int per spatial axis"),
    ],
)
def test_other_sizes_are_refused(size: Any, message: str) -> None:
    with pytest.raises(SizeError, match=message):
        check_rank(size, 2, "input_size")


def test_an_image_is_made_up_from_the_first_convolution() -> None:
    model = nn.Sequential(nn.Conv3d(5, 4, 3)).to(torch.bfloat16)
    spec = describe_inputs(model, (8, 9, 10), None, {})
    (name,) = spec.arguments
    assert spec.is_image(name)
    assert spec.image_size() == (8, 9, 10)
    assert spec.values[name].shape == (BATCH, 5, 8, 9, 10)
    assert spec.values[name].dtype == torch.bfloat16


def test_fake_inputs_are_resized_images() -> None:
    example = (torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 1), True)
    spec = describe_inputs(TwoInputs(), None, example, {})
    fake = spec.fake(FakeTensorMode(), lambda size: tuple(n // 2 for n in size))
    assert fake["image"].shape == (BATCH, 3, 8, 8)
    assert fake["scale"].shape == (1, 1, 1)
    assert fake["flag"] is True


def test_examples_by_name() -> None:
    example = {"scale": torch.zeros(1), "image": torch.zeros(4, 3, 16, 20)}
    assert describe_inputs(TwoInputs(), None, example, {}).image_size() == (16, 20)


def test_a_target_size_overrides_that_of_the_examples() -> None:
    example = (torch.zeros(1, 3, 16, 16), torch.zeros(1))
    assert describe_inputs(TwoInputs(), (12, 12), example, {}).image_size() == (12, 12)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"forward needs the argument 'scale'"):
        describe_inputs(TwoInputs(), (8, 8), None, {})


def test_a_missing_argument_may_be_concrete() -> None:
    spec = describe_inputs(TwoInputs(), (8, 8), None, {"scale": 2.0})
    assert spec.arguments == ("image",)


def test_examples_that_do_not_fit() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"example_inputs do not fit TwoInputs\.forward"
    ):
        describe_inputs(TwoInputs(), None, (1, 2, 3, 4), {})


def test_no_image_among_the_examples() -> None:
    spec = describe_inputs(TwoInputs(), None, (torch.zeros(3), torch.zeros(1)), {})
    with pytest.raises(UnsupportedModelError, match="no argument of the model is an image"):
        spec.image_size()


def test_first_convolution() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(3, 4, 5), nn.Conv2d(3, 4, 3))
    assert first_convolution(model) is model[1]
    with pytest.raises(UnsupportedModelError, match="Linear has no convolution layer"):
        first_convolution(nn.Linear(2, 2))


def test_where_functions_convolve_the_example_tells_the_axes() -> None:
    volume, labels = torch.zeros(2, 3, 4, 4, 4), torch.zeros(2, dtype=torch.int64)
    assert spatial_rank(nn.Linear(2, 2), (labels, volume)) == 3
    assert spatial_rank(nn.Linear(2, 2), {"labels": labels, "volume": volume}) == 3
    assert spatial_rank(nn.Conv2d(3, 4, 3), (labels, volume)) == 2
    with pytest.raises(UnsupportedModelError, match="pass example_inputs"):
        spatial_rank(nn.Linear(2, 2), (labels,))


@pytest.mark.parametrize(
    ("in_channels", "config", "expected"),
    [
        (48, {"input_size": (3, 224, 224)}, 3),  # blocks of 4x4 pixels
        (12, {"input_size": (3, 224, 224)}, 3),
        (1, {"input_size": (3, 224, 224)}, 1),  # the model was made for other images
        (6, {"input_size": (3, 224, 224)}, 6),
        (48, {"input_size": None}, 48),
        (48, {}, 48),
        (48, None, 48),
    ],
)
def test_channels_in_front_of_space_to_depth(
    in_channels: int, config: dict[str, Any] | None, expected: int
) -> None:
    model = nn.Sequential(nn.Conv2d(in_channels, 4, 3))
    if config is not None:
        model.pretrained_cfg = config
    assert image_channels(model, first_convolution(model)) == expected


def test_a_model_may_name_the_channels_of_its_images() -> None:
    """The first convolution reads 64 coefficients of a transform, the images have 3 channels."""

    class Transformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_chans = 3
            self.first = nn.Conv2d(64, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.first(x.mean(1, keepdim=True).expand(-1, 64, -1, -1))
            return out

    model = Transformed()
    assert image_channels(model, first_convolution(model)) == 3
