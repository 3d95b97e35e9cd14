"""Lengths behind windows, against those that torch itself computes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxscale.passes.windows import window_arguments, window_length


@settings(max_examples=200)
@given(
    length=st.integers(1, 30),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
def test_convolution_lengths_are_those_of_torch(
    length: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    found = window_length(length, kernel, stride, (padding, padding), dilation)
    if length + 2 * padding < dilation * (kernel - 1) + 1:
        assert found < 1
        return
    out = F.conv1d(
        torch.zeros(1, 1, length),
        torch.zeros(1, 1, kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    assert found == out.shape[-1]


@settings(max_examples=200)
@given(
    length=st.integers(1, 30),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
)
def test_pool_lengths_in_ceil_mode_are_those_of_torch(
    length: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    assume(padding <= kernel // 2)
    assume(length + 2 * padding >= dilation * (kernel - 1) + 1)
    out = F.max_pool1d(torch.zeros(1, 1, length), kernel, stride, padding, dilation, ceil_mode=True)
    found = window_length(length, kernel, stride, (padding, padding), dilation, ceil_mode=True)
    assert found == out.shape[-1]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "output_padding"),
    list(itertools.product((1, 2, 4), (1, 2, 3), (0, 1), (1, 2), (0, 1))),
)
def test_transposed_lengths_are_those_of_torch(
    kernel: int, stride: int, padding: int, dilation: int, output_padding: int
) -> None:
    if output_padding >= max(stride, dilation):
        output_padding = 0
    out = F.conv_transpose1d(
        torch.zeros(1, 1, 9),
        torch.zeros(1, 1, kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=output_padding,
    )
    found = window_length(
        9, kernel, stride, (padding, padding), dilation, False, True, output_padding
    )
    assert found == out.shape[-1]


def test_without_a_second_tap_there_is_nothing_to_dilate() -> None:
    fields = {"kernel_size": 1, "dilation": 3, "stride": 1, "node": None}
    assert window_arguments(fields) == {"kernel_size": 1, "stride": 1}
    assert window_arguments(fields | {"kernel_size": 2})["dilation"] == 3
