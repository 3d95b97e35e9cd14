from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from fxscale.cost import conv_macs
from fxscale.errors import PlanMismatchError
from fxscale.plan import FeatureMap, ScalePlan
from tests.fxscale.plan_samples import conv, overfeat_fast, plan


def test_a_convolutions_factors_and_costs() -> None:
    stem = overfeat_fast().conv("features.0")
    assert stem.s == (11 / 7, 11 / 7)
    assert round(stem.s2, 3) == 2.469
    assert round(stem.s4, 3) == 6.098
    assert stem.target_macs == 3 * 96 * 11**2 * 56**2
    assert stem.pretrain_macs == 3 * 96 * 7**2 * 36**2
    assert stem.resized_macs((147 / 231,) * 2) == 3 * 96 * 11**2 * 36**2
    assert math.isclose(stem.mac_ratio, (11 * 56) ** 2 / (7 * 36) ** 2)
    assert stem.pretrain_macs in stem.eq4_bounds
    assert math.isclose(stem.eq4_bounds.high, stem.target_macs * 49 / 121)


def test_every_call_of_a_convolution_counts() -> None:
    once = conv("head", (8, 8), (3, 2), (14, 10))
    twice = conv("head", (8, 8), (3, 2), (14, 10), calls=2)
    assert twice.target_macs == 2 * once.target_macs
    assert twice.pretrain_macs == 2 * once.pretrain_macs


def test_groups_divide_the_cost() -> None:
    full, depthwise = (conv("c", (8, 8), (3, 2), (14, 10), groups=g) for g in (1, 8))
    assert depthwise.target_macs * 8 == full.target_macs


def test_a_transposed_convolution_is_counted_over_its_input() -> None:
    up = conv("up", (8, 4), (3, 2), (28, 20), inputs=(14, 10), stride=2, transposed=True)
    assert up.target_macs == conv_macs(8, 4, (3, 3), (14, 14))
    assert up.pretrain_macs == conv_macs(8, 4, (2, 2), (10, 10))


def test_progressive_resizing_shrinks_every_map_but_those_after_global_pooling() -> None:
    # The first map is one pixel larger than the input's ratio says, as within a basic block.
    convs = conv("a", (8, 8), (3, 2), (56, 41)), conv("gate", (8, 8), (1, 1), (1, 1))
    found = plan(*convs, dense_macs=(30, 20))
    assert found.progressive_resizing_macs == 64 * 9 * 40**2 + 64 + 20


def test_a_convolution_that_is_never_called_costs_nothing() -> None:
    unused = conv("spare", (8, 8), (3, 2), (14, 10), calls=0)
    assert (unused.target_macs, unused.pretrain_macs, unused.mac_ratio) == (0, 0, 1.0)
    assert unused.activations == (0, 0)


def test_activations_are_the_outputs_of_convolutions() -> None:
    convs = conv("a", (3, 8), (3, 2), (14, 10), calls=2), conv("b", (8, 4), (1, 1), (7, 5))
    found = plan(*convs)
    assert found.activations == (2 * 8 * 14**2 + 4 * 7**2, 2 * 8 * 10**2 + 4 * 5**2)
    assert found.activation_ratio == 1.96
    up = conv("up", (8, 4), (3, 2), (28, 20), inputs=(14, 10), stride=2, transposed=True)
    assert up.activations == (4 * 28**2, 4 * 20**2)


def test_a_1x1_convolution_on_a_smaller_map_saves_more_than_eq4_says() -> None:
    pointwise = conv("shortcut", (64, 128), (1, 1), (28, 20))
    assert pointwise.s == (1.0, 1.0)
    assert pointwise.pretrain_macs < pointwise.eq4_bounds.low


def test_totals_are_those_of_the_paper() -> None:
    overfeat = overfeat_fast()
    assert overfeat.target_macs == (
        3 * 96 * 121 * 56**2
        + 96 * 256 * 25 * 24**2
        + (256 * 512 + 512 * 1024 + 1024 * 1024) * 9 * 12**2
        + 1024 * 36 * 3072
        + 3072 * 4096
        + 4096 * 1000
    )
    assert overfeat.pretrain_macs == (
        3 * 96 * 49 * 36**2
        + 96 * 256 * 9 * 16**2
        + (256 * 512 * 8**2 + 512 * 1024 * 9**2 + 1024 * 1024 * 8**2) * 4
        + 1024 * 16 * 3072
        + 3072 * 4096
        + 4096 * 1000
    )
    assert overfeat.mac_ratio == overfeat.target_macs / overfeat.pretrain_macs
    assert overfeat.predicted_speed_up == overfeat.mac_ratio
    assert overfeat.pretrain_macs < overfeat.progressive_resizing_macs < overfeat.target_macs


def test_the_bounds_of_the_total_are_the_sums_of_all_bounds() -> None:
    overfeat = overfeat_fast()
    assert overfeat.conv_macs[1] in overfeat.eq4_bounds
    assert math.isclose(
        overfeat.eq4_bounds.high, sum(conv.target_macs / conv.s2 for conv in overfeat.convs)
    )


def test_largest_drift_is_the_first_of_the_largest_on_any_axis() -> None:
    overfeat = overfeat_fast()
    assert overfeat.max_drift == 0.5
    assert overfeat.most_drifted == overfeat.feature_maps[1]
    assert FeatureMap("x", "", (4, 4), (3, 3), (0.25, -0.5)).max_drift == 0.5


def test_without_feature_maps_there_is_no_drift() -> None:
    assert plan().most_drifted is None
    assert plan().max_drift == 0.0


def test_an_empty_plan_has_a_ratio_of_one() -> None:
    assert plan().mac_ratio == 1.0


def test_unknown_convolution_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(PlanMismatchError, match=r"no convolution 'feature\.0'; did you mean 'fea"):
        overfeat_fast().conv("feature.0")
    with pytest.raises(PlanMismatchError, match="it has 5 convolutions"):
        overfeat_fast().conv("zzz")


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    overfeat_fast().save(path)
    assert ScalePlan.load(path) == overfeat_fast()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_failing_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    overfeat_fast().save(path)
    broken = replace(plan(), feature_maps=(FeatureMap("x", "", (4,), (3,), (math.nan,)),))
    with pytest.raises(ValueError, match="Out of range float"):
        broken.save(path)
    assert ScalePlan.load(path) == overfeat_fast()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_loading_a_binary_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"\x80\x04\x95")
    with pytest.raises(PlanMismatchError, match=r"plan\.json is corrupt: it is not text: byte 0"):
        ScalePlan.load(path)
