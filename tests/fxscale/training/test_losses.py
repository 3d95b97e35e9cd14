"""What is minimised, against the definition of cross entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import FxscaleError
from fxscale.training.losses import Loss
from fxscale.training.run import train
from tests.fxscale.training.small_runs import WithAuxiliary, settings, source

LABELS = torch.tensor([2, 0, 1, 2, 2])


class Outputs(NamedTuple):
    logits: Tensor
    aux_logits2: Tensor | None
    aux_logits1: Tensor | None


def scores() -> Tensor:
    return torch.randn(5, 3, dtype=torch.float64)


def cross_entropy(logits: Tensor) -> float:
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    return float(-sum(row[label].log() for row, label in zip(shares, LABELS, strict=True)) / 5)


def test_auxiliary_classifiers_are_added_with_their_weight() -> None:
    loss = Loss(3, 0.0, 0.3)
    own, second, first = scores(), scores(), scores()
    expected = cross_entropy(own)
    assert float(loss(own, LABELS)) == pytest.approx(expected)
    assert float(loss((own,), LABELS)) == pytest.approx(expected)
    assert float(loss(Outputs(own, None, None), LABELS)) == pytest.approx(expected)
    expected += 0.3 * cross_entropy(second)
    assert float(loss([own, second], LABELS)) == pytest.approx(expected)
    expected += 0.3 * cross_entropy(first)
    assert float(loss(Outputs(own, second, first), LABELS)) == pytest.approx(expected)
    assert loss.scores(Outputs(own, second, first)) is own
    assert loss.scores(own) is own


def test_labels_may_be_shares() -> None:
    own, other = scores(), scores()
    shares = F.one_hot(LABELS, 3).double()
    loss = Loss(3, 0.0, 0.5)
    assert float(loss((own, other), shares)) == pytest.approx(float(loss((own, other), LABELS)))


def test_shares_say_nothing_of_outputs_beyond_the_classes() -> None:
    """A network made for more classes than there are, as one trained elsewhere: ten for three."""
    wide, narrow = torch.randn(5, 10, dtype=torch.float64), scores()
    shares = F.one_hot(LABELS, 3).double()
    loss = Loss(3, 0.1, 0.5)
    for output in (wide, (wide, narrow), (narrow, wide)):
        assert float(loss(output, shares)) == pytest.approx(float(loss(output, LABELS)))


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (torch.zeros(5, 2), r"shape \(5, 2\), but there are 3 classes: expected \(N, 3\)"),
        (torch.zeros(5, 3, 4, 4), r"shape \(5, 3, 4, 4\)"),
        ((torch.zeros(5, 3), torch.zeros(5, 8, 2, 2)), r"\(shape \(5, 3\), shape \(5, 8, 2, 2\)\)"),
        ({"out": torch.zeros(5, 3)}, "a dict of 'out'"),
        ((), r"\(\), but"),
        (None, "a NoneType"),
        ((None, torch.zeros(5, 3)), r"\(a NoneType, shape \(5, 3\)\)"),  # the first is its own
    ],
)
def test_what_is_no_class_scores_is_told(output: Any, told: str) -> None:
    loss = Loss(3, 0.0, 0.3)
    with pytest.raises(FxscaleError, match=f"the network answers with {told}"):
        loss(output, LABELS)
    with pytest.raises(FxscaleError, match=f"the network answers with {told}"):
        loss.scores(output)


@pytest.mark.parametrize("weight", [0.3, 0.0])
def test_a_run_trains_auxiliary_classifiers(tmp_path: Path, weight: float) -> None:
    chosen = settings(auxiliary_weight=weight, weight_decay=0.0)
    result = train(chosen, tmp_path, source=source(), factory=WithAuxiliary, accelerator="cpu")

    assert [epoch.size for epoch in result.epochs] == [17, 17, 24, 24]
    assert result.epochs[-1].accuracy > 0.7
    torch.manual_seed(0)
    target: nn.Module = WithAuxiliary(2)
    small = fxscale.downscale(target, 17, target_size=24)
    untrained = fxscale.upscale_state(small)["auxiliary.weight"]
    trained = result.network.state_dict()["auxiliary.weight"]
    assert torch.equal(untrained, trained) == (weight == 0)
