"""Lengths behind windows, against those that torch itself computes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fxscale.passes.windows import window_arguments, window_length


@given(
    length=st.integers(1, 24),
    kernel_size=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    ceil_mode=st.booleans(),
)
def test_window_length_of_pools_and_convolutions(
    length: int, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> None:
    signal = torch.zeros(1, 1, length)
    pool = ceil_mode or padding <= kernel_size // 2  # torch limits the padding of its pools
    padding = min(padding, kernel_size // 2) if pool else padding
    found = window_length(length, kernel_size, stride, (padding,) * 2, dilation, ceil_mode)
    try:
        if pool:
            out = F.max_pool1d(signal, kernel_size, stride, padding, dilation, ceil_mode)
        else:
            kernel = torch.zeros(1, 1, kernel_size)
            out = F.conv1d(signal, kernel, None, stride, padding, dilation)
    except RuntimeError:
        assert found < 1
    else:
        assert found == out.shape[-1]


@given(
    length=st.integers(1, 12),
    kernel_size=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 3),
    output_padding=st.integers(0, 3),
)
def test_window_length_of_transposed_convolutions(
    length: int, kernel_size: int, stride: int, padding: int, dilation: int, output_padding: int
) -> None:
    output_padding = min(output_padding, max(stride, dilation) - 1)
    found = window_length(
        length, kernel_size, stride, (padding,) * 2, dilation, False, True, output_padding
    )
    arguments = (None, stride, padding, output_padding, 1, dilation)
    try:
        out = F.conv_transpose1d(
            torch.zeros(1, 1, length), torch.zeros(1, 1, kernel_size), *arguments
        )
    except RuntimeError:
        assert found < 1
    else:
        assert found == out.shape[-1]


def test_without_a_second_tap_there_is_nothing_to_dilate() -> None:
    fields = {"kernel_size": 1, "dilation": 3, "stride": 1, "node": None}
    assert window_arguments(fields) == {"kernel_size": 1, "stride": 1}
    assert window_arguments(fields | {"kernel_size": 2})["dilation"] == 3
