from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxscale.errors import PlanMismatchError
from fxscale.plan import ScalePlan
from fxscale.plan_json import plan_from_json, plan_to_json
from tests.fxscale.plan_samples import overfeat_fast, places, plans

SAMPLE = overfeat_fast()


@settings(max_examples=60)
@given(plans)
def test_round_trip_is_exact_both_ways(plan: ScalePlan) -> None:
    text = plan_to_json(plan)
    assert plan_from_json(text) == plan
    assert plan_to_json(plan_from_json(text)) == text


def test_the_document_is_ascii_and_ends_with_a_summary() -> None:
    text = SAMPLE.to_json()
    assert text.isascii()
    summary = json.loads(text)["summary"]
    assert summary["mac_ratio"] == SAMPLE.mac_ratio
    assert summary["target_macs"] == SAMPLE.target_macs
    assert summary["activation_ratio"] == SAMPLE.activation_ratio


def test_the_summary_may_be_absent() -> None:
    assert ScalePlan.from_json(_changed(lambda d: d.pop("summary"))) == SAMPLE


def test_fields_with_defaults_may_be_absent() -> None:
    assert ScalePlan.from_json(_changed(lambda d: d["convs"][0].pop("transposed"))) == SAMPLE


OPTIONAL = (".transposed", ".parts", ".parts_axis", ".of", ".centred", "module_versions", "pools")


@settings(max_examples=50)
@given(st.integers(0, len(SAMPLE.to_json().rstrip()) - 1))
def test_every_truncation_is_told(length: int) -> None:
    with pytest.raises(PlanMismatchError, match=r"corrupt: it is not valid JSON: .* at line"):
        ScalePlan.from_json(SAMPLE.to_json()[:length])


@settings(max_examples=200)
@given(st.integers(0, len(SAMPLE.to_json()) - 1), st.characters(max_codepoint=126))
def test_a_changed_character_gives_another_plan_or_the_listed_error(at: int, new: str) -> None:
    text = SAMPLE.to_json()
    # Any other exception fails the test.
    with suppress(PlanMismatchError):
        assert isinstance(ScalePlan.from_json(text[:at] + new + text[at + 1 :]), ScalePlan)


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_other_json_is_refused(value: Any) -> None:
    with pytest.raises(PlanMismatchError):
        ScalePlan.from_json(json.dumps(value))


@pytest.mark.parametrize("path", [p for p in places(SAMPLE) if not p.endswith(OPTIONAL)])
def test_every_field_is_missed_and_checked_where_it_stands(path: str) -> None:
    pointer = path.replace("]", "").replace("[", ".").split(".")
    if path == "version":
        match = "corrupt at version: the field is missing, so this is not a plan of fxscale"
    else:
        match = f"at {path}: the field is missing"
    with pytest.raises(PlanMismatchError) as missing:
        ScalePlan.from_json(_changed(lambda d: _parent(d, pointer).pop(pointer[-1])))
    assert match in str(missing.value)

    with pytest.raises(PlanMismatchError) as wrong:
        ScalePlan.from_json(_changed(lambda d: _parent(d, pointer).update({pointer[-1]: {}})))
    assert "found an object with 0 fields" in str(wrong.value) or path == "version"
    assert path in str(wrong.value)


def _parent(document: Any, pointer: list[str]) -> Any:
    for step in pointer[:-1]:
        document = document[int(step) if step.isdecimal() else step]
    return document


def _changed(change: Any) -> str:
    document = json.loads(SAMPLE.to_json())
    change(document)
    return json.dumps(document)


def _set(*pointer: Any) -> Any:
    """A change that puts the last argument where the others lead."""
    *way, last, value = pointer

    def change(document: Any) -> None:
        for step in way:
            document = document[step]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("model", 7), "at model: expected a string, found 7"),
        (_set("model", None), "at model: expected a string, found null"),
        (_set("target_size", "231"), 'at target_size: expected a list, found "231"'),
        (_set("target_size", 0, 1.5), r"at target_size[0]: expected a whole number, found 1.5"),
        (_set("target_size", 0, True), "at target_size[0]: expected a whole number, found true"),
        (_set("target_size", 1, 0), "at target_size: expected positive whole numbers, found 0"),
        (_set("pretrain_size", [147]), "at pretrain_size: expected 2 entries, one per axis"),
        (_set("dense_macs", [1]), "at dense_macs: expected 2 entries, found 1"),
        (_set("dense_macs", [1, -2]), "at dense_macs: expected no negative count"),
        (_set("colour", "red"), "at colour: the field is unknown"),
        (_set("convs", 2, "colour", 1), "at convs[2].colour: the field is unknown"),
        (
            _set("convs", 1, "kernel_size", [5]),
            "at convs[1].pretrain_kernel_size: expected 1 entries, one per axis, found 2",
        ),
        (
            _set("convs", 1, "stride", [0, 1]),
            "at convs[1].stride: expected positive whole numbers, found 0",
        ),
        (
            _set("convs", 1, "calls", 0, "pad_operator", 1),
            "at convs[1].calls[0].pad_operator: expected true or false, found 1",
        ),
        (
            _set("convs", 1, "calls", 0, "target_padding", [[1, 1, 1], [0, 0]]),
            "at convs[1].calls[0].target_padding[0]: expected 2 entries, found 3",
        ),
        (
            _set("feature_maps", 0, "drift", ["0", 0]),
            'at feature_maps[0].drift[0]: expected a number, found "0"',
        ),
        (
            _set("feature_maps", 0, "drift", [float("nan"), 0]),
            "at feature_maps[0].drift[0]: expected a finite number, found nan",
        ),
        (
            _set("state", 0, "kind", "kernels"),
            "at state[0].kind: expected one of 'copy', 'kernel', 'interface', 'feature', "
            "'direction', 'gain', 'unflattened', found \"kernels\"",
        ),
        (_set("state", 0, "kind", []), "at state[0].kind: expected one of"),
        (
            _set("state", 1, "target_view", [3072, 1024, 6, 5]),
            "at state[1].target_view: the view (3072, 1024, 6, 5) does not fit the shape",
        ),
    ],
)
def test_wrong_values_are_told_with_their_place(change: Any, message: str) -> None:
    with pytest.raises(PlanMismatchError) as error:
        ScalePlan.from_json(_changed(change))
    assert message in str(error.value)
    assert "Remedy: write the plan again" in str(error.value)


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None])
def test_another_version_is_refused(version: object) -> None:
    with pytest.raises(PlanMismatchError, match="this fxscale reads version 1: make the plan agai"):
        ScalePlan.from_json(_changed(_set("version", version)))


def test_a_repeated_field_is_refused() -> None:
    with pytest.raises(PlanMismatchError, match="the field 'model' stands twice"):
        ScalePlan.from_json(SAMPLE.to_json().replace("{", '{"model": "x",', 1))


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000, '{"version": 1e999}', ""])
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(PlanMismatchError):
        ScalePlan.from_json(text)
