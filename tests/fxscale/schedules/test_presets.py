"""The presets against the paper's text, epoch by epoch, counted from 1 as the paper does."""

from __future__ import annotations

import pytest

from fxscale.errors import FxscaleError
from fxscale.schedules import Epoch, Schedule, overfeat, resnet34
from fxscale.schedules.presets import rules_of


def epochs_of(schedule: Schedule) -> dict[int, Epoch]:
    accuracies: list[float] = []
    epochs = {}
    while epoch := schedule.next_epoch(accuracies):
        accuracies.append(0.0)
        epochs[len(accuracies)] = epoch
    return epochs


def test_overfeat() -> None:
    epochs = epochs_of(overfeat())

    assert len(epochs) == 55
    rates = {n: e.learning_rate for n, e in epochs.items()}
    assert {rates[n] for n in range(1, 19)} == {1e-2}
    assert {rates[n] for n in range(19, 30)} == {5e-3}
    assert {rates[n] for n in range(30, 44)} == {1e-3}
    assert {rates[n] for n in range(44, 53)} == {5e-4}
    assert {rates[n] for n in range(53, 56)} == {1e-4}
    assert {e.weight_decay for n, e in epochs.items() if n <= 29} == {1e-4}
    assert {e.weight_decay for n, e in epochs.items() if n > 29} == {0.0}
    # "Resized at Epoch 17": epoch 17 is the target's first.
    assert [n for n, e in epochs.items() if e.resize] == [17]


def test_resnet34() -> None:
    epochs = epochs_of(resnet34())

    assert len(epochs) == 90
    rates = {n: e.learning_rate for n, e in epochs.items()}
    assert {rates[n] for n in range(1, 31)} == {1e-1}
    assert {rates[n] for n in range(31, 61)} == {1e-2}
    assert {rates[n] for n in range(61, 91)} == {1e-3}
    assert {e.weight_decay for e in epochs.values()} == {1e-4}
    assert [n for n, e in epochs.items() if e.resize] == [29]


@pytest.mark.parametrize(
    ("first_target_epoch", "hours"), [(29, 145.60), (30, 144.32), (59, 110.02), (60, 107.82)]
)
def test_the_papers_times_say_how_it_counts(first_target_epoch: int, hours: float) -> None:
    """Table 4: with one epoch of pre-training less than its name says, the hours come out."""
    pretrain, target = 70.09 / 90, 179.33 / 90
    expected = (first_target_epoch - 1) * pretrain + (91 - first_target_epoch) * target
    assert hours == pytest.approx(expected, rel=0.01)


def test_unknown_names() -> None:
    assert rules_of("overfeat").epochs == 55
    with pytest.raises(FxscaleError, match="'vgg': choose one of overfeat, resnet34"):
        rules_of("vgg")
