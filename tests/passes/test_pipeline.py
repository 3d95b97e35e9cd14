"""The pipeline: passes in order, each alone, nothing left behind."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import fxscale
from fxscale.errors import SizeError, UnsupportedModelError
from fxscale.passes import pipeline
from fxscale.passes.inputs import describe_inputs
from fxscale.passes.pipeline import Options, Timings, compile_network


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Flatten(), nn.Linear(4 * 144, 5))


def test_passes_run_in_order() -> None:
    timings = Timings()
    target = model()
    inputs = describe_inputs(target, (12, 12), None, {})
    compile_network(target, inputs, Options(input_size=(8, 8)), timings)
    assert list(timings.seconds) == [
        "trace",
        "annotate",
        "find sites",
        "choose kernels",
        "solve geometry",
        "place paddings",
        "invert",
        "summarise",
        "rewrite",
        "verify",
    ]


@pytest.mark.parametrize("name", ["annotate", "place_paddings", "verify"])
def test_a_mistake_in_a_pass_is_a_refusal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*args: object, **kwargs: object) -> None:
        raise ValueError("zip() argument 2 is longer than argument 1\nand more")

    monkeypatch.setattr(pipeline, name, mistaken)

    words = name.replace("_", " ")
    with pytest.raises(
        UnsupportedModelError,
        match=rf"the pass '{words}' failed on it: ValueError: zip\(\) argument 2 is longer than "
        r"argument 1\. Remedy: please report it",
    ) as caught:
        fxscale.downscale(model(), 8, target_size=12)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("paper", "paper"),
        ("nearest", "nearest"),
        ({"0": 3}, "mapping"),
        (lambda site: 3, "callable"),
    ],
)
def test_the_plan_names_the_policy(policy: object, name: str) -> None:
    plan = fxscale.downscale(model(), 8, target_size=12, kernels=policy).plan
    assert plan.kernels == name


def test_the_same_input_gives_the_same_network() -> None:
    target = model()
    first = fxscale.downscale(target, 8, target_size=12)
    second = fxscale.downscale(target, 8, target_size=12)
    assert first.plan == second.plan
    assert first.code == second.code
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])


def test_a_larger_size_is_refused() -> None:
    target = model()
    inputs = describe_inputs(target, (12, 12), None, {})
    with pytest.raises(SizeError, match=r"\(12, 16\) is larger than the target's \(12, 12\)"):
        compile_network(target, inputs, Options(input_size=(12, 16)))


def test_nothing_holds_the_target_alive() -> None:
    target = model()
    alive = weakref.ref(target)
    weight = weakref.ref(target[0].weight)
    small = fxscale.downscale(target, 8, target_size=12)
    del target
    gc.collect()
    assert alive() is None
    assert weight() is None
    assert small(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


def test_no_node_of_the_result_carries_values() -> None:
    small = fxscale.downscale(model(), 8, target_size=12)
    for node in small.graph.nodes:
        assert set(node.meta) <= {"nn_module_stack"}
