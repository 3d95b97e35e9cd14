"""The loop against a plain one, and what happens at a change of network."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.training import (
    Augmentation,
    EpochRecord,
    ImageSet,
    Observer,
    Recipe,
    SmallResNet,
    Trainer,
    image_set,
)

RECIPE = Recipe(4, 0.05, (2,), batch_size=16)


@pytest.fixture
def images() -> ImageSet:
    """Two kinds of random 32 × 32 images that a small network tells apart in a few epochs."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    pictures = torch.randn(80, 1, 32, 32, generator=generator)
    pictures[labels == 1, :, 8:24, 8:24] += 0.5
    return image_set("squares", (pictures[:50], labels[:50]), (pictures[50:], labels[50:]))


def network() -> SmallResNet:
    torch.manual_seed(5)
    return SmallResNet(1, 2, widths=(16, 32))


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_an_epoch_is_plain_sgd(images: ImageSet) -> None:
    trainer = Trainer(images, RECIPE, seed=3)
    stage = trainer.stage("target", network(), 32)
    plain = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3 * 1_000_003))

    record = trainer.fit(stage, range(1))[0]

    losses = []
    for start in (0, 16, 32):  # the 2 images left over are dropped
        chosen = order[start : start + 16]
        loss = F.cross_entropy(plain(images.train_images[chosen]), images.train_labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    plain.eval()
    accuracy = (plain(images.test_images).argmax(1) == images.test_labels).float().mean()
    assert same(stage.network, plain)
    assert record.train_loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert record.accuracy == pytest.approx(float(accuracy))
    assert record == replace(record, epoch=1, phase="target", size=32, learning_rate=0.05)
    assert record.seconds > 0


def test_learning_rate_drops(images: ImageSet) -> None:
    trainer = Trainer(images, RECIPE, seed=0)

    records = trainer.fit(trainer.stage("target", network(), 32), range(4))

    assert [r.learning_rate for r in records] == pytest.approx([0.05, 0.05, 0.005, 0.005])


def test_going_on_equals_training_at_once(images: ImageSet) -> None:
    augmentation = Augmentation(shift=1 / 16, mirror=True)
    whole = Trainer(images, RECIPE, seed=1, augmentation=augmentation)
    at_once = whole.stage("target", network(), 32)
    records = whole.fit(at_once, range(4))

    first = Trainer(images, RECIPE, seed=1, augmentation=augmentation)
    begun = first.stage("target", network(), 32)
    first.fit(begun, range(2))
    torch.manual_seed(99)
    second = Trainer(images, RECIPE, seed=1, augmentation=augmentation)
    resumed = second.stage("target", network(), 32)
    resumed.network.load_state_dict(begun.network.state_dict())
    resumed.optimizer.load_state_dict(deepcopy(begun.optimizer.state_dict()))
    rest = second.fit(resumed, range(2, 4))

    assert same(at_once.network, resumed.network)
    assert [r.accuracy for r in rest] == [r.accuracy for r in records[2:]]


def test_the_seed_decides_the_order(images: ImageSet) -> None:
    stages = []
    for seed in (0, 0, 1):
        trainer = Trainer(images, RECIPE, seed=seed)
        stages.append(trainer.stage("target", network(), 32))
        trainer.fit(stages[-1], range(1))

    assert same(stages[0].network, stages[1].network)
    assert not same(stages[0].network, stages[2].network)


def test_evaluation_restores_the_mode(images: ImageSet) -> None:
    trainer = Trainer(images, RECIPE, seed=0)
    stage = trainer.stage("target", network(), 32)

    for training in (True, False):
        stage.network.train(training)
        before = deepcopy(stage.network.state_dict())
        trainer.evaluate(stage)
        assert stage.network.training is training
        assert all(torch.equal(v, before[k]) for k, v in stage.network.state_dict().items())


class Counter(Observer):
    def __init__(self) -> None:
        self.steps = 0
        self.records: list[EpochRecord] = []

    def step(self) -> None:
        self.steps += 1

    def epoch(self, record: EpochRecord) -> None:
        self.records.append(record)


def test_observer_is_told_of_every_step_and_epoch(images: ImageSet) -> None:
    counter = Counter()
    trainer = Trainer(images, RECIPE, seed=0, observer=counter)

    records = trainer.fit(trainer.stage("target", network(), 32), range(2))

    assert counter.steps == 2 * trainer.steps_per_epoch == 6
    assert counter.records == records


def test_enlarging_carries_network_and_momentum(images: ImageSet) -> None:
    trainer = Trainer(images, RECIPE, seed=0)
    small = trainer.stage("small images", network(), 24)
    trainer.fit(small, range(1))
    weights = small.network.stem.weight.detach().clone()
    momentum = small.optimizer.state[small.network.stem.weight]["momentum_buffer"].clone()

    large, change = trainer.enlarge(small, size=32, epoch=1)

    assert (large.phase, large.size, change.epoch) == ("target", 32, 1)
    assert torch.equal(large.network.stem.weight, weights)
    carried = large.optimizer.state[large.network.stem.weight]["momentum_buffer"]
    assert torch.equal(carried, momentum)
    assert trainer.fit(large, range(1, 2))[0].size == 32


def test_upscaling_goes_through_the_transition(images: ImageSet) -> None:
    trainer = Trainer(images, RECIPE, seed=0)
    target = network()
    small = trainer.stage("pre-train", fxscale.downscale(target, 24, target_size=32), 24)
    record = trainer.fit(small, range(2))[-1]
    expected = fxscale.upscale_state(small.network)

    large, change = trainer.upscale(small, target, size=32, epoch=2)

    def learned(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v for k, v in state.items() if "running" not in k and "tracked" not in k}

    state = learned(large.network.state_dict())
    assert large.network is target
    assert all(torch.equal(v, state[k]) for k, v in learned(expected).items())
    assert change.before == record.accuracy
    assert change.reestimated == trainer.evaluate(large)
    # Without re-estimation: the same weights with the pre-train network's running statistics.
    statistics = deepcopy(target)
    statistics.load_state_dict(expected)
    assert change.after == trainer.evaluate(replace(large, wrapped=statistics, network=statistics))
    # Momentum: the buffers moved with the weights.
    buffer = large.optimizer.state[target.stem.weight]["momentum_buffer"]
    assert buffer.shape == target.stem.weight.shape
    assert bool(buffer.any())
    assert trainer.fit(large, range(2, 3))[0].phase == "target"
