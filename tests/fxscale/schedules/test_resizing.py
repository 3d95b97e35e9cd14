from __future__ import annotations

import pytest

from fxscale.errors import FxscaleError
from fxscale.schedules import (
    At,
    BeforeDrop,
    LearningRules,
    Never,
    OnPlateau,
    ResizeRule,
    Schedule,
    parse_resize_rule,
)

RULES = LearningRules.drops(12, 0.1, (8, 10))


def resized_after(rule: ResizeRule, accuracies: list[float], phases: int = 2) -> list[int]:
    """Numbers of completed epochs at which the next network took over."""
    schedule = Schedule(RULES, phases, rule)
    found = (schedule.next_epoch(accuracies[:n]) for n in range(len(accuracies) + 1))
    return [epoch.number for epoch in found if epoch is not None and epoch.resize]


RISING = [n / 20 for n in range(12)]


def test_fixed_epochs() -> None:
    assert resized_after(At((3,)), RISING) == [3]
    assert resized_after(At((2, 5)), RISING, phases=3) == [2, 5]


def test_before_the_first_drop() -> None:
    assert resized_after(BeforeDrop(), RISING) == [6]
    assert resized_after(BeforeDrop(lead=1), RISING) == [7]
    assert resized_after(BeforeDrop(), RISING, phases=4) == [2, 4, 6]


def test_kernels_grow_first() -> None:
    """In the first fifth, at least an epoch each; then images, evenly."""
    assert resized_after(BeforeDrop(kernels=1), RISING, phases=3) == [1, 6]
    assert resized_after(BeforeDrop(kernels=2), RISING, phases=4) == [1, 2, 6]
    assert resized_after(BeforeDrop(kernels=1), RISING, phases=4) == [1, 3, 6]
    imagenet = LearningRules.drops(90, 0.1, (30, 60))
    schedule = Schedule(imagenet, 3, BeforeDrop(kernels=1))
    phases = []
    while epoch := schedule.next_epoch([0.5] * len(phases)):
        phases.append(epoch.phase)
    assert (phases.count(0), phases.count(1), phases.count(2)) == (6, 22, 62)


@pytest.mark.parametrize("kernels", [1, 2])
def test_where_all_transitions_enlarge_kernels_they_are_even(kernels: int) -> None:
    even = resized_after(BeforeDrop(), RISING, phases=kernels + 1)
    assert resized_after(BeforeDrop(kernels=kernels), RISING, phases=kernels + 1) == even


def test_on_a_plateau() -> None:
    # Best after epoch 3; two epochs without a better one.
    assert resized_after(OnPlateau(), [0.1, 0.2, 0.3, 0.25, 0.3, 0.9, 0.9]) == [5]
    assert resized_after(OnPlateau(patience=1), [0.1, 0.2, 0.2, 0.5]) == [3]
    # A rise of 0.04 does not count; one of 0.2 does.
    few = [0.1, 0.14, 0.3, 0.31, 0.32, 0.5]
    assert resized_after(OnPlateau(rise=0.05), few) == [5]


def test_a_plateau_is_waited_for_until_the_first_drop() -> None:
    assert resized_after(OnPlateau(), RISING) == [8]
    assert resized_after(OnPlateau(latest=4), RISING) == [4]
    assert resized_after(OnPlateau(), RISING, phases=3) == [7, 8]


def test_every_network_has_its_own_plateau() -> None:
    accuracies = [0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.1]
    assert resized_after(OnPlateau(), accuracies, phases=3) == [3, 6]


def test_never() -> None:
    assert resized_after(Never(), RISING) == []


def test_words() -> None:
    assert parse_resize_rule("29") == At((29,))
    assert parse_resize_rule("20,29") == At((20, 29))
    assert parse_resize_rule("auto") == BeforeDrop()
    assert parse_resize_rule("auto", kernels=2) == BeforeDrop(kernels=2)
    assert parse_resize_rule("plateau") == OnPlateau()
    assert parse_resize_rule("never") == Never()
    with pytest.raises(FxscaleError, match="'soon' does not say when to resize: write epochs"):
        parse_resize_rule("soon")


@pytest.mark.parametrize(
    ("rule", "phases", "words"),
    [
        (At((3,)), 3, "2 transitions need as many increasing epochs"),
        (At((5, 3)), 3, r"found \[5, 3\]"),
        (At((0,)), 2, "must lie between 1 and 11"),
        (At((12,)), 2, "must lie between 1 and 11"),
        (BeforeDrop(lead=8), 2, "leaves a network without an epoch"),
        (BeforeDrop(lead=6, kernels=2), 4, "leaves a network without an epoch"),
        (BeforeDrop(lead=-1), 2, "the learning rate first drops after epoch 8"),
        (OnPlateau(patience=0), 2, "a patience of at least 1 epoch"),
        (OnPlateau(latest=12), 2, "must come after 1 to 11 epochs at the latest; found 12"),
    ],
)
def test_rules_that_do_not_fit(rule: ResizeRule, phases: int, words: str) -> None:
    with pytest.raises(FxscaleError, match=words):
        Schedule(RULES, phases, rule)


def test_auto_needs_a_drop() -> None:
    with pytest.raises(FxscaleError, match=r"never drops.*give the epoch to resize at"):
        Schedule(LearningRules.drops(5, 0.1), 2, BeforeDrop())
