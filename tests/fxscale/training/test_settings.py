from __future__ import annotations

import json
from typing import Any

import pytest

from fxscale.errors import FxscaleError
from fxscale.schedules import At, ExtraTraining
from fxscale.schedules.presets import OVERFEAT
from fxscale.training.settings import Interval, Settings
from tests.fxscale.training.small_runs import SETTINGS, settings


def test_intervals() -> None:
    assert Interval.parse("500 steps") == Interval(500, "steps")
    assert Interval.parse("1step") == Interval(1, "steps")
    assert Interval.parse("2 epochs") == Interval.parse("2") == Interval(2, "epochs")
    for text in ("", "0 steps", "often", "-1", "3 days"):
        with pytest.raises(FxscaleError, match="is no interval: write, for example, '1 epoch'"):
            Interval.parse(text)


def test_schedules() -> None:
    schedule = settings(pretrain_sizes=(10, 17), resize_at="1,2", extra_training=4).schedule
    assert (schedule.phases, schedule.resize) == (3, At((1, 2)))
    assert schedule.extra == ExtraTraining(4)
    assert settings(raised_epochs=2).schedule.raised == 2
    assert settings(preset="overfeat", resize_at="auto").schedule.rules == OVERFEAT


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretrain_sizes": (24,)}, r"must grow from phase to phase; found \[24, 24\]"),
        ({"pretrain_sizes": (0,)}, "must grow from phase to phase"),
        ({"optimizer": "lion"}, "optimizer is 'lion': choose one of sgd, adamw"),
        ({"on_corrupt": "hide"}, "choose one of error, skip"),
        ({"average": 1.0}, "average must be from 0 to below 1; found 1.0"),
        ({"batch_size": 0}, "batch_size must be 1 or more; found 0"),
        ({"momentum": float("nan")}, "momentum must be from 0 to below 1; found nan"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        ({"accumulate": 3}, "batch of 16 images cannot be accumulated from 3 equal parts"),
        ({"checkpoint_every": "now"}, "'now' is no interval"),
        ({"resize_at": "9"}, "must lie between 1 and 3"),
        ({"preset": "vgg"}, "no schedule is called 'vgg'"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FxscaleError, match=words):
        settings(**changes)


def test_json_and_what_may_change() -> None:
    mine = settings(keep=("a",), kernels={"conv1": [3, 3]})
    stored = json.loads(json.dumps(mine.to_dict()))
    assert mine.differing(stored) == []
    assert settings(keep=("a",), kernels={"conv1": [3, 3]}, workers=7).differing(stored) == []
    assert settings(seed=3, gamma=0.5, keep=("a",)).differing(stored) == [
        "gamma",
        "kernels",
        "seed",
    ]
    assert set(stored) == set(Settings.__dataclass_fields__) >= set(SETTINGS)


def test_kernels_per_axis_may_change_places_with_their_json() -> None:
    """A settings file says `[3, 2]` where a program, and the command line, say `(3, 2)`."""
    mine = settings(kernels={"conv1": (3, 2), "conv2": 2})
    stored = json.loads(json.dumps(mine.to_dict()))
    assert mine.differing(stored) == []
    assert settings(kernels={"conv1": [3, 2], "conv2": 2}).differing(mine.to_dict()) == []
    assert settings(kernels={"conv1": (3, 3), "conv2": 2}).differing(stored) == ["kernels"]


def test_a_run_of_an_older_version_is_one_with_the_defaults() -> None:
    """Checkpoints know nothing of settings that came later."""
    stored = settings().to_dict()
    del stored["sync_batchnorm"], stored["progressive_sizes"]
    assert settings().differing(stored) == []
    found = settings(progressive_sizes=(17,), resize_at="1,2").differing(stored)
    assert found == ["progressive_sizes", "resize_at"]


def test_a_setting_that_is_no_more_counts_where_it_was_used() -> None:
    """Progressive resizing was a flag once, with the sizes of a pre-train network."""
    stored = settings().to_dict()
    assert settings().differing({**stored, "progressive": False}) == []
    assert settings().differing({**stored, "progressive": True}) == ["progressive"]
