"""The geometry pass on networks whose solution is known, and drifts measured on finished ones."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

import fxscale
from fxscale.models import create
from fxscale.models.overfeat import overfeat_fast
from fxscale.plan import FeatureMap, ScalePlan
from tests.passes.coordinates import coordinates, off_centre


@functools.cache
def torchvision_plan(name: str) -> ScalePlan:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        arguments = {"init_weights": False} if name == "googlenet" else {}
        target = models.get_model(name, weights=None, **arguments)
    return fxscale.downscale(target.to_empty(device="cpu"), 160, target_size=224).plan


def drifts(plan: ScalePlan, prefix: str) -> list[FeatureMap]:
    return [m for m in plan.feature_maps if m.module.startswith(prefix)]


LADDER = {224: 160, 112: 80, 56: 40, 28: 20, 14: 10, 7: 5}


def test_resnet34_needs_one_pad_operator_and_drifts_by_a_quarter() -> None:
    plan = torchvision_plan("resnet34")
    assert plan.max_drift <= 0.25
    assert len(plan.pad_operators) == 1
    joins = [m for m in plan.feature_maps if m.node.startswith("iadd")]
    assert len(joins) == 16
    for feature_map in (*joins, *drifts(plan, "maxpool"), *drifts(plan, "conv1")):
        expected = tuple(LADDER[n] for n in feature_map.target_size)
        assert feature_map.pretrain_size == expected, feature_map
    assert {m.pretrain_size[0] for m in joins} == {40, 20, 10, 5}


def test_resnet34_does_not_drift_across_stride_1_blocks() -> None:
    plan = torchvision_plan("resnet34")
    joins = [m for m in plan.feature_maps if m.node.startswith("iadd")]
    stages = [joins[:3], joins[3:7], joins[7:13], joins[13:]]
    for stage in stages:
        assert len({m.drift for m in stage}) == 1, stage
    assert joins[0].drift == (0, 0)
    for conv in plan.convs:
        if ".0." in conv.name or not conv.name.endswith(("conv1", "conv2")) or conv.name == "conv1":
            continue
        (call,) = conv.calls
        # p = 0, then p = 1, without a pad operator.
        amount = 0 if conv.name.endswith("conv1") else 1
        assert call.pretrain_padding == ((amount, amount),) * 2, conv.name
        assert not call.pad_operator


def test_overfeat_needs_no_pad_operator() -> None:
    plan = fxscale.downscale(overfeat_fast(), 147, target_size=231).plan
    assert plan.pad_operators == ()
    assert plan.max_drift <= 0.25
    sizes = [m.pretrain_size[0] for m in plan.feature_maps]
    assert sizes == [147, 36, 18, 16, 8, 7, 8, 7, 4]
    assert [i.pretrain_size for i in plan.interfaces] == [(4, 4)]


def test_vgg16_needs_no_pad_operator() -> None:
    """A block of three 2x2 kernels loses a pixel, which the pool before or behind it adds."""
    plan = torchvision_plan("vgg16")
    assert plan.pad_operators == ()
    assert plan.max_drift <= 0.25
    assert plan.mac_ratio > 4.48
    paddings = {pool.module: pool.pretrain_padding[0] for pool in plan.pools}
    assert paddings == {"features.9": (1, 1), "features.16": (1, 1), "features.30": (0, 1)}
    ends = {m.module: m.pretrain_size for m in plan.feature_maps}
    blocks = [ends[f"features.{layer}"][0] for layer in (2, 7, 14, 21, 28)]
    assert blocks == [160, 80, 40, 20, 9]


def test_lone_kernels_in_bottlenecks_take_turns() -> None:
    """A lone 2x2 kernel moves the grid half a pixel; every second one moves it back."""
    plan = torchvision_plan("resnet50")
    assert plan.max_drift <= 0.5
    paddings = [
        conv.calls[0].pretrain_padding
        for conv in plan.convs
        if conv.name.endswith("conv2") and conv.stride == (1, 1)
    ]
    assert set(paddings) == {((1, 0),) * 2, ((0, 1),) * 2}
    for stage in ("layer1.", "layer2.", "layer3.", "layer4."):
        sides = [
            conv.calls[0].pretrain_padding[0]
            for conv in plan.convs
            if conv.name.startswith(stage) and conv.name.endswith("conv2")
        ]
        assert all(one != other for one, other in itertools.pairwise(sides[1:])), (stage, sides)
    assert len(plan.pad_operators) <= 16


@pytest.mark.parametrize("name", ["densenet121", "googlenet"])
def test_concatenated_maps_agree_and_drift_by_half_a_pixel_at_most(name: str) -> None:
    plan = torchvision_plan(name)
    assert plan.max_drift <= 0.5
    joins = [m for m in plan.feature_maps if m.node.startswith("cat")]
    assert joins
    for feature_map in joins:
        assert feature_map.pretrain_size == tuple(LADDER[n] for n in feature_map.target_size)


@pytest.mark.parametrize(
    ("name", "large", "little"),
    [
        ("torchvision/resnet34", 224, 160),
        ("torchvision/vgg16", 224, 160),
        ("torchvision/alexnet", 224, 143),
        ("overfeat_fast", 231, 147),
    ],
)
def test_networks_measured_when_they_are_finished(name: str, large: int, little: int) -> None:
    """The drifts of whole networks, measured with an image of coordinates."""
    with torch.device("meta"):
        target = create(name)
    small = fxscale.downscale(target, little, target_size=large)
    same = fxscale.downscale(target, large, target_size=large, keep=["*"])
    for axis in range(2):
        found, wanted = coordinates(small, little, axis), coordinates(same, large, axis)
        for feature_map in small.plan.feature_maps:
            apart = off_centre(found[feature_map.node], little) - off_centre(
                wanted[feature_map.node], large
            )
            assert feature_map.drift[axis] == pytest.approx(apart, abs=1e-6), feature_map
            assert abs(apart) <= 0.25 + 1e-6
