"""Kernel sizes: Table 1, the four forms of the policy, and what keeps a kernel."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxscale
from fxscale.errors import UnsupportedModelError
from fxscale.passes.kernels import MEAN_RATIO, choose_kernels, nearest_kernel, paper_kernel
from fxscale.passes.sites import Convolution
from tests.passes.networks import kernel_sizes, sites_of


@pytest.mark.parametrize(("k", "small"), [(1, 1), (3, 2), (5, 3), (7, 5), (11, 7)])
def test_table_1(k: int, small: int) -> None:
    assert paper_kernel(k) == small


def test_the_mean_ratio_of_table_1() -> None:
    assert pytest.approx((3 / 2 + 5 / 3 + 7 / 5 + 11 / 7) / 4) == MEAN_RATIO


@given(k=st.integers(1, 64))
def test_sizes_that_the_table_does_not_list(k: int) -> None:
    small = paper_kernel(k)
    assert 1 <= small <= k
    assert abs(small - k / 1.535) <= 1


@given(k=st.integers(1, 64), ratio=st.floats(0.1, 1))
def test_nearest(k: int, ratio: float) -> None:
    small = nearest_kernel(k, ratio)
    assert 1 <= small <= k
    assert small == 1 or abs(small - k * ratio) <= 0.5


def three() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 7, stride=2, padding=3),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, (1, 7), padding=(0, 3))),
        nn.Conv2d(4, 4, 1),
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("paper", [(5, 5), (2, 2), (1, 5), (1, 1)]),
        ("nearest", [(4, 4), (2, 2), (1, 4), (1, 1)]),
        ({"0": 3, "1.*": (1, 3)}, [(3, 3), (1, 3), (1, 3), (1, 1)]),
        ({"1.0": 2}, [(7, 7), (2, 2), (1, 7), (1, 1)]),
        (
            lambda site: tuple((k + 1) // 2 for k in site.kernel_size),
            [(4, 4), (2, 2), (1, 4), (1, 1)],
        ),
    ],
    ids=["paper", "nearest", "mapping", "partial mapping", "callable"],
)
def test_four_forms(policy: Any, expected: list[tuple[int, int]]) -> None:
    small = fxscale.downscale(three(), 20, target_size=32, kernels=policy)
    assert list(kernel_sizes(small).values()) == expected


def test_keep() -> None:
    small = fxscale.downscale(three(), 20, target_size=32, keep=["1.*"])
    assert list(kernel_sizes(small).values()) == [(5, 5), (3, 3), (1, 7), (1, 1)]
    again = fxscale.downscale(three(), 20, target_size=32, keep="0")
    assert kernel_sizes(again)["0"] == (7, 7)


def test_a_kernel_never_falls_below_its_stride() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=3), nn.Conv2d(4, 4, 2, stride=2))
    small = fxscale.downscale(model, 24, target_size=36)
    assert kernel_sizes(small) == {"0": (3, 3), "1": (2, 2)}


def test_callables_are_given_the_site() -> None:
    seen: list[Convolution] = []

    def policy(site: Convolution) -> int | tuple[int, ...]:
        seen.append(site)
        return site.kernel_size

    fxscale.downscale(three(), 20, target_size=32, kernels=policy)
    assert [(site.name, site.weight) for site in seen] == [
        ("0", "0.weight"),
        ("1.0", "1.0.weight"),
        ("1.1", "1.1.weight"),
        ("2", "2.weight"),
    ]


@pytest.mark.parametrize(
    ("policy", "keep", "message"),
    [
        ("smaller", (), "kernels='smaller' is not a known policy"),
        ({"conv1": 3}, (), "the pattern 'conv1' matches no convolution"),
        ("paper", ("layer1.*",), r"the pattern 'layer1\.\*' matches no convolution"),
        ({"0": 1}, (), r"kernels gives \(1, 1\) for a kernel of \(7, 7\) with stride \(2, 2\)"),
        ({"0": 9}, (), r"kernels gives \(9, 9\) for a kernel of \(7, 7\)"),
        ({"1.0": (2, 2, 2)}, (), r"kernels gives \(2, 2, 2\) for a kernel of \(3, 3\)"),
        (lambda site: 0, (), r"kernels gives \(0, 0\) for a kernel of \(7, 7\)"),
    ],
)
def test_bad_choices_are_refused(policy: Any, keep: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        fxscale.downscale(three(), 20, target_size=32, kernels=policy, keep=keep)


@pytest.mark.parametrize("policy", [7, {"0": "5"}, {"0": 5.0}, lambda site: None, {0: 5}, None])
def test_choices_of_the_wrong_type_are_refused(policy: Any) -> None:
    with pytest.raises(fxscale.FxscaleError):
        fxscale.downscale(three(), 20, target_size=32, kernels=policy)


def test_a_kernel_over_the_whole_map_cannot_be_chosen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 12))
    with pytest.raises(UnsupportedModelError, match="covers it whole"):
        choose_kernels(sites_of(model), {"1": 7}, (), (0.66, 0.66))
