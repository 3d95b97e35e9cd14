"""Steps replayed from graphs train as steps that run."""

from __future__ import annotations

import pytest
import torch

from benchmarks._graphed import GraphedTrainer
from fxscale.training import Augmentation, Recipe, SmallResNet, Trainer, image_set


@pytest.mark.gpu
def test_a_graphed_run_is_the_plain_one() -> None:
    """Through a drop of the learning rate and a change of the image size, ten steps each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 2
    pictures = torch.randn(100, 3, 32, 32, generator=generator)
    pictures[labels == 1, :, 8:24, 8:24] += 0.5
    images = image_set("squares", (pictures[:80], labels[:80]), (pictures[80:], labels[80:]))
    recipe = Recipe(3, 0.05, (1,), batch_size=8)
    losses, weights = [], []
    for kind in (Trainer, GraphedTrainer):
        torch.manual_seed(1)
        trainer = kind(images, recipe, seed=0, augmentation=Augmentation(1 / 16, mirror=True))
        stage = trainer.stage("small images", SmallResNet(3, 2, widths=(16, 32)), 24)
        records = trainer.fit(stage, range(2))
        stage, _ = trainer.enlarge(stage, size=32, epoch=2)
        records += trainer.fit(stage, range(2, 3))
        losses.append([record.train_loss for record in records])
        weights.append(stage.network.stem.weight.detach())

    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-2, atol=1e-3)
