from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxscale.errors import FxscaleError
from fxscale.schedules import At, Epoch, ExtraTraining, LearningRules, OnPlateau, Schedule

RULES = LearningRules.drops(8, 1.0, (4, 6), weight_decay=0.5)


def trained(schedule: Schedule, accuracies: list[float]) -> list[Epoch]:
    """All epochs of a run whose epochs reach these accuracies (the last one again and again)."""
    epochs: list[Epoch] = []
    seen: list[float] = []
    while epoch := schedule.next_epoch(seen):
        epochs.append(epoch)
        seen.append(accuracies[min(len(seen), len(accuracies) - 1)])
    return epochs


def rates(epochs: list[Epoch]) -> list[float]:
    return [round(epoch.learning_rate, 6) for epoch in epochs]


def test_the_schedule_goes_on_through_a_transition() -> None:
    epochs = trained(Schedule(RULES, 2, At((3,))), [0.1])

    assert rates(epochs) == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [e.phase for e in epochs] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [e.resize for e in epochs] == [False, False, False, True, False, False, False, False]
    assert [e.number for e in epochs] == list(range(8))
    assert not any(e.extra for e in epochs)
    assert {e.weight_decay for e in epochs} == {0.5}


def test_the_target_alone() -> None:
    epochs = trained(Schedule(RULES, 1), [0.1])

    assert rates(epochs) == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert {e.phase for e in epochs} == {0}


def table(epochs: list[Epoch], steps: int) -> list[list[float]]:
    return [[round(epoch.rate(step, steps), 6) for step in range(steps)] for epoch in epochs]


def test_the_rate_rises_step_by_step_after_a_transition() -> None:
    # Transition after 3 epochs, the rate drops after 4 and 6. Six steps of warm-up.
    epochs = trained(Schedule(RULES, 2, At((3,)), warmup=1.5), [0.1])

    assert table(epochs, 4) == [
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [0.166667, 0.333333, 0.5, 0.666667],
        [0.083333, 0.1, 0.1, 0.1],
        [0.1, 0.1, 0.1, 0.1],
        [0.01, 0.01, 0.01, 0.01],
        [0.01, 0.01, 0.01, 0.01],
    ]
    # What is written of an epoch does not change, so neither does anything else.
    assert rates(epochs) == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]


def test_every_transition_has_its_warm_up_and_extra_epochs_are_part_of_it() -> None:
    schedule = Schedule(RULES, 3, At((2, 4)), ExtraTraining(most=1), warmup=2)
    assert table(trained(schedule, [0.1]), 2) == [
        *([1, 1], [1, 1]),
        *([0.25, 0.5], [0.75, 1]),
        [0.25, 0.5],  # extra
        *([0.075, 0.1], [0.1, 0.1]),
        *([0.01, 0.01], [0.01, 0.01]),
    ]


def test_without_transitions_there_is_no_warm_up() -> None:
    assert table(trained(Schedule(RULES, 1, warmup=3), [0.1]), 2)[0] == [1, 1]
    with pytest.raises(FxscaleError, match="a warm-up takes 0 epochs or more; found -1"):
        Schedule(RULES, 2, At((3,)), warmup=-1)


def test_behind_the_drop_the_first_rule_holds_once_more() -> None:
    assert rates(trained(Schedule(RULES, 2, At((5,)), raised=2), [0.1])) == [
        *(1, 1, 1, 1, 0.1),  # pre-train
        *(1, 1, 0.01),
    ]
    # Of several transitions the last; before the drop there is nothing to raise.
    assert rates(trained(Schedule(RULES, 3, At((3, 6)), raised=1), [0.1])) == [
        *(1, 1, 1),
        *(1, 0.1, 0.1),
        *(1, 0.01),
    ]
    assert rates(trained(Schedule(RULES, 2, At((2,)), raised=2), [0.1])) == [
        *(1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01)
    ]
    assert rates(trained(Schedule(RULES, 1, raised=2), [0.1])) == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    with pytest.raises(FxscaleError, match="raised for 0 epochs or more; found -1"):
        Schedule(RULES, 2, At((3,)), raised=-1)


def test_extra_training_holds_the_rate_until_accuracy_drops() -> None:
    # Resized right before the drop (as in section 5.2). Target epochs: 0.5 0.6 0.7 0.65, a drop.
    accuracies = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.65, 0.8]
    epochs = trained(Schedule(RULES, 2, At((4,)), ExtraTraining()), accuracies)

    # 4 epochs of pre-training, 4 extra ones, the other 4 of the schedule, shifted.
    assert rates(epochs) == [1, 1, 1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [e.number for e in epochs if e.extra] == [4, 5, 6, 7]


def test_extra_training_compares_the_new_network_with_itself_alone() -> None:
    # The first target epoch is worse than the pre-train network: no drop.
    epochs = trained(Schedule(RULES, 2, At((4,)), ExtraTraining()), [0.9, 0.9, 0.9, 0.9, 0.1, 0.05])

    assert [e.number for e in epochs if e.extra] == [4, 5]


def test_a_drop_before_the_rule_changes_needs_no_extra_training() -> None:
    epochs = trained(Schedule(RULES, 2, At((2,)), ExtraTraining()), [0.1, 0.2, 0.3, 0.25, 0.4])

    assert rates(epochs) == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]


def test_extra_training_ends_where_accuracy_never_drops() -> None:
    epochs = trained(Schedule(RULES, 2, At((2,)), ExtraTraining(most=3)), [0.1])

    assert rates(epochs) == [1, 1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [e.number for e in epochs if e.extra] == [4, 5, 6]


def test_the_whole_rule_is_held() -> None:
    from fxscale.schedules.presets import OVERFEAT

    # Resized at the end of epoch 29, where the weight decay is switched off; 9 extra epochs, as in
    # Table 3, so 64 in all.
    accuracies = [0.1] * 29 + [0.3 + n / 100 for n in range(8)] + [0.2]
    epochs = trained(Schedule(OVERFEAT, 2, At((29,)), ExtraTraining()), accuracies)

    held = [e for e in epochs if e.extra]
    assert [e.number for e in held] == list(range(29, 38))
    assert {(e.learning_rate, e.weight_decay) for e in held} == {(5e-3, 1e-4)}
    assert len(epochs) == 64
    assert (epochs[38].learning_rate, epochs[38].weight_decay) == (1e-3, 0.0)


def test_later_transitions_shift_with_the_schedule() -> None:
    schedule = Schedule(RULES, 3, At((4, 6)), ExtraTraining(most=2))
    epochs = trained(schedule, [0.1])

    assert [e.phase for e in epochs] == [0] * 4 + [1] * 4 + [2] * 4
    assert rates(epochs) == [1] * 6 + [0.1] * 4 + [0.01] * 2


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(1, 4), st.booleans())
def test_the_past_never_changes(accuracies: list[float], phases: int, extra: bool) -> None:
    schedule = Schedule(RULES, phases, OnPlateau(), ExtraTraining() if extra else None)

    told = [schedule.next_epoch(accuracies[:n]) for n in range(len(accuracies) + 1)]
    epochs = [epoch for epoch in told if epoch is not None]

    assert told[: len(epochs)] == epochs  # once done, done for good
    assert [e.number for e in epochs] == list(range(len(epochs)))
    assert sum(not e.extra for e in epochs) <= RULES.epochs
    phase = [e.phase for e in epochs]
    assert all(b - a == e.resize for a, b, e in zip(phase, phase[1:], epochs[1:], strict=False))
    written = [e.learning_rate for e in epochs if not e.extra]
    assert written == [RULES.at(n).learning_rate for n in range(len(written))]


def test_impossible_schedules() -> None:
    with pytest.raises(FxscaleError, match="at least 1 phase; found 0"):
        Schedule(RULES, 0)
    with pytest.raises(FxscaleError, match="extra training needs at least 1 epoch; found 0"):
        ExtraTraining(0)


def test_usable_without_the_trainer() -> None:
    program = (
        "import sys, fxscale.schedules; "
        "assert not [m for m in sys.modules if m.startswith(('fxscale.training', 'lightning'))]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_outlook() -> None:
    schedule = Schedule(RULES, 2, At((4,)), ExtraTraining())

    # From the beginning: the target's accuracy is taken to drop at once, after two extra epochs.
    assert rates(schedule.outlook([])) == [1] * 6 + [0.1, 0.1, 0.01, 0.01]
    # Three extra epochs are known, in which accuracy rose.
    seen = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert rates(schedule.outlook(seen)) == [1, 0.1, 0.1, 0.01, 0.01]
    plateau = Schedule(RULES, 2, OnPlateau())
    assert [e.phase for e in plateau.outlook([])] == [0] * 4 + [1] * 4
    assert schedule.outlook([0.1] * 30) == []
