"""`train` against a plain loop, and resumed runs against uninterrupted ones, bit for bit."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import fxscale
from fxscale.errors import CheckpointError, DataError, DivergenceError, FxscaleError
from fxscale.training import change, store
from fxscale.training.observers import TrainingObserver
from fxscale.training.progress import EpochResult
from fxscale.training.randomness import ORDER, derive
from fxscale.training.run import TrainingResult, train
from tests.fxscale.training.small_runs import (
    Tiny,
    same,
    settings,
    source,
    squares,
    tiny,
    unshifted,
)


def run(
    output: Path, *observers: TrainingObserver, resume: bool = False, **changes: Any
) -> TrainingResult:
    return train(
        settings(**changes),
        output,
        resume=resume,
        source=source(),
        factory=tiny,
        observers=observers,
        accelerator="cpu",
    )


def without_times(results: tuple[EpochResult, ...]) -> list[EpochResult]:
    return [replace(r, seconds=0.0, images_per_second=0.0) for r in results]


def test_a_run_is_a_plain_loop(tmp_path: Path) -> None:
    images = squares()
    chosen = settings(accumulate=2, clip_norm=0.5, label_smoothing=0.1, channels_last=False)
    result = train(
        chosen,
        tmp_path,
        source=unshifted(images),
        factory=lambda classes: Tiny(classes, dropout=0.0),
        accelerator="cpu",
    )

    torch.manual_seed(0)
    target = Tiny(2, dropout=0.0)
    small = fxscale.downscale(target, 17, target_size=24)
    sizes = {17: images.resized(17), 24: images}

    def sgd(network: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def batches(epoch: int, size: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(derive(0, ORDER, epoch))
        order = torch.randperm(70, generator=generator)[:64]  # 6 images are left over
        pictures = sizes[size].train_images.expand(-1, 3, -1, -1)
        return [(pictures[part], images.train_labels[part]) for part in order.split(8)]

    network: nn.Module = small
    optimizer = sgd(network)
    for epoch, size in enumerate((17, 17, 24, 24)):
        if epoch == 2:
            estimation = [inputs for inputs, _ in batches(2, 24)[:6]]  # 3 steps of 2 parts each
            optimizer = fxscale.transition(
                small, target, optimizer=optimizer, batches=estimation
            ).optimizer
            network = target
        for group in optimizer.param_groups:
            group["lr"] = 0.005 if epoch == 3 else 0.05
        network.train()
        losses, parts = [], batches(epoch, size)
        for first, second in zip(parts[::2], parts[1::2], strict=True):
            optimizer.zero_grad()
            for inputs, labels in (first, second):
                loss = F.cross_entropy(network(inputs), labels, label_smoothing=0.1) / 2
                loss.backward()
                losses.append(loss.item())
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
        network.eval()
        logits = network(sizes[size].test_images.expand(-1, 3, -1, -1))
        accuracy = (logits.argmax(1) == images.test_labels).float().mean()
        found = result.epochs[epoch]
        assert found.train_loss == pytest.approx(sum(losses) / 4, rel=1e-4)
        assert found.accuracy == pytest.approx(float(accuracy))
        expected = F.cross_entropy(logits, images.test_labels).item()
        assert found.test_loss == pytest.approx(expected, rel=1e-3)
    for key, value in result.network.state_dict().items():
        torch.testing.assert_close(value, target.state_dict()[key], rtol=1e-3, atol=1e-5)
    assert [e.size for e in result.epochs] == [17, 17, 24, 24]
    assert (result.changes[0].epoch, result.changes[0].size) == (2, 24)
    assert result.changes[0].before == result.epochs[1].accuracy
    saved = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in result.network.state_dict().items())


class CrashError(Exception):
    pass


class CrashAt(TrainingObserver):
    """Crashes after so many steps of its own."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise CrashError


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "average": 0.8,
        "mixup": 0.4,
        "accumulate": 2,
        "clip_norm": 1.0,
        "precision": "bf16",
        "pretrain_sizes": (13, 17),
        "resize_at": "1,2",
        "deterministic": True,
        "extra_training": 2,
    },
    "extra": {"resize_at": "plateau", "extra_training": 3},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_runs_end_bit_for_bit_the_same(variant: str, tmp_path: Path) -> None:
    changes = VARIANTS[variant] | {"checkpoint_every": "3 steps"}
    whole = run(tmp_path / "whole", **changes)

    # 4 steps an epoch; transitions after 4 or 8.
    for steps in (2, 3, 3, 4, 6):
        with pytest.raises(CrashError):
            run(tmp_path / "broken", CrashAt(steps), resume=True, **changes)
    resumed = run(tmp_path / "broken", resume=True, **changes)

    assert same(whole.network, resumed.network)
    assert without_times(resumed.epochs) == without_times(whole.epochs)
    assert [c.state_hash for c in resumed.changes] == [c.state_hash for c in whole.changes]


def test_a_run_that_another_version_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights fit the network that is compiled now, whose paddings are others."""
    with pytest.raises(CrashError):
        run(tmp_path, CrashAt(2), checkpoint_every="1 step")
    monkeypatch.setattr(store, "layout_of", lambda network: "of this version")
    with pytest.raises(CheckpointError, match="a pre-train network with other paddings or map"):
        run(tmp_path, resume=True, checkpoint_every="1 step")


def test_a_crash_in_the_warm_up(tmp_path: Path) -> None:
    """The transition comes after 8 steps, the warm-up takes the 6 steps after it."""
    changes = {"warmup_after_resize": 1.5, "checkpoint_every": "1 step", "log_every": 1}
    whole = run(tmp_path / "whole", **changes)
    with pytest.raises(CrashError):
        run(tmp_path / "broken", CrashAt(11), **changes)
    resumed = run(tmp_path / "broken", resume=True, **changes)

    assert same(whole.network, resumed.network)
    assert without_times(resumed.epochs) == without_times(whole.epochs)
    expected = [0.05] * 8 + [0.05 * n / 6 for n in (1, 2, 3, 4)]
    expected += [0.005 * 5 / 6, 0.005, 0.005, 0.005]
    for folder in ("whole", "broken"):
        text = (tmp_path / folder / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        rates = [line["learning_rate"] for line in lines if line["event"] == "step"]
        assert rates == pytest.approx(expected)
    assert [line["steps"] for line in lines if line["event"] == "resumed"] == [10]
    # It is what the optimizer gets that counts.
    plain = run(tmp_path / "plain", checkpoint_every="1 step", log_every=1)
    assert not same(whole.network, plain.network)
    assert without_times(whole.epochs[:2]) == without_times(plain.epochs[:2])


def test_a_crash_in_the_transition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", checkpoint_every="100 epochs")

    def crash(*arguments: object, **options: object) -> None:
        raise CrashError

    for name in ("transition", "reestimate_batchnorm"):
        with monkeypatch.context() as patch:
            patch.setattr(change, name, crash)
            with pytest.raises(CrashError):
                run(tmp_path / "broken", resume=True, checkpoint_every="100 epochs")
    counter = CrashAt(1000)
    resumed = run(tmp_path / "broken", counter, resume=True, checkpoint_every="100 epochs")

    assert 1000 - counter.left == 8  # the pre-train network's 8 steps were not taken again
    assert same(whole.network, resumed.network)
    assert without_times(resumed.epochs) == without_times(whole.epochs)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    whole = run(tmp_path)
    again = run(tmp_path, CrashAt(1), resume=True)

    assert same(whole.network, again.network)
    assert again.epochs == whole.epochs


def test_runs_are_not_overwritten_or_mixed(tmp_path: Path) -> None:
    run(tmp_path, epochs=2, milestones=(), resize_at="1")
    with pytest.raises(CheckpointError, match=r"holds a run already: go on with it \(--resume\)"):
        run(tmp_path, epochs=2, milestones=(), resize_at="1")
    with pytest.raises(
        CheckpointError, match=r"other settings: learning_rate 0.05, not 0.1, momentum 0.9, not 0"
    ):
        run(
            tmp_path,
            resume=True,
            epochs=2,
            milestones=(),
            resize_at="1",
            learning_rate=0.1,
            momentum=0.0,
        )
    # What changes no result may change.
    run(tmp_path, resume=True, epochs=2, milestones=(), resize_at="1", checkpoint_every="1 step")


def test_workers_and_seeds(tmp_path: Path) -> None:
    changes = {"epochs": 2, "milestones": (), "resize_at": "1"}
    alone = run(tmp_path / "alone", **changes)
    helped = run(tmp_path / "helped", workers=2, **changes)
    other = run(tmp_path / "other", seed=1, **changes)

    assert same(alone.network, helped.network)
    assert not same(alone.network, other.network)


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(tmp_path, epochs=2, milestones=(), resize_at="1", deterministic=True)
    assert torch.equal(torch.rand(2), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_target_alone_and_the_pretrain_network_alone(tmp_path: Path) -> None:
    target = run(tmp_path / "target", epochs=1, milestones=(), pretrain_sizes=())
    assert [e.size for e in target.epochs] == [24]
    assert target.changes == ()
    small = run(tmp_path / "small", epochs=2, milestones=(), resize_at="never")
    assert [e.size for e in small.epochs] == [17, 17]
    from fxscale.weights import load_scaled_weights

    state, plan = load_scaled_weights(tmp_path / "small" / "weights.safetensors")
    Tiny(2).load_state_dict(fxscale.upscale_state(plan, state))


def test_synchronised_batchnorm_is_batchnorm_on_one_process(tmp_path: Path) -> None:
    changes = {"epochs": 2, "milestones": (), "resize_at": "1", "average": 0.5}
    plain = run(tmp_path / "plain", **changes)
    synced = run(tmp_path / "synced", sync_batchnorm=True, **changes)

    assert any(isinstance(m, nn.SyncBatchNorm) for m in synced.network.modules())
    assert same(plain.network, synced.network)


def test_synchronised_batchnorm_needs_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning_fabric

    class TwoProcesses:  # that have found each other
        device = torch.device("cpu")

        def __init__(self, **options: Any) -> None:
            assert options["devices"] == 2

        def launch(self) -> None:
            pass

    monkeypatch.setattr(lightning_fabric, "Fabric", TwoProcesses)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FxscaleError, match="between GPUs alone: train on GPUs, or without"):
        run(tmp_path, sync_batchnorm=True)


def test_a_network_is_learnt(tmp_path: Path) -> None:
    result = run(tmp_path, epochs=6, milestones=(5,), resize_at="3")
    assert result.epochs[-1].accuracy > 0.9
    best = max(result.epochs[3:], key=lambda e: e.accuracy)  # of the target, whatever came before
    assert result.best == best
    before = replace(result.epochs[0], accuracy=1.0)
    assert replace(result, epochs=(before, *result.epochs[1:])).best == best


def test_divergence_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poison(TrainingObserver):
        def step(self) -> None:
            steps.append(1)
            if len(steps) == 6:
                with torch.no_grad():
                    networks[0].fc.bias.fill_(float("nan"))

    steps: list[int] = []
    networks: list[nn.Module] = []

    def build(classes: int) -> nn.Module:
        networks.append(tiny(classes))
        return networks[0]

    last = tmp_path / "checkpoints" / "last.safetensors"
    with pytest.raises(
        DivergenceError, match=r"loss is nan in epoch 2, step 4.*good checkpoint is"
    ) as found:
        train(
            settings(pretrain_sizes=()),
            tmp_path,
            source=source(),
            factory=build,
            observers=[Poison()],
            accelerator="cpu",
        )
    assert str(last) in str(found.value)
    state = load_file(last)
    assert all(bool(torch.isfinite(t).all()) for t in state.values())
    with pytest.raises(DivergenceError, match="There is no checkpoint"):
        run(tmp_path / "other", learning_rate=1e30, momentum=0.0)


def test_networks_and_data_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(
        FxscaleError, match=r"answers with shape \(16, 1\), but there are 2 classes"
    ):
        train(
            settings(),
            tmp_path / "a",
            source=source(),
            factory=lambda _: Tiny(1),
            accelerator="cpu",
        )
    with pytest.raises(DataError, match="70 images to train on are fewer than a batch of 128"):
        run(tmp_path / "b", batch_size=128)


def test_metrics(tmp_path: Path) -> None:
    started = time.perf_counter()
    result = run(tmp_path)
    elapsed = time.perf_counter() - started

    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("epoch") == 4
    assert events.index("transition") > [i for i, e in enumerate(events) if e == "epoch"][1]
    losses = [line["loss"] for line in lines if line["event"] == "step"]
    assert len(losses) == 8  # every two steps of 4 epochs with 4 steps
    assert result.epochs[0].train_loss == pytest.approx(sum(losses[:2]) / 2, rel=1e-6)
    change = next(line for line in lines if line["event"] == "transition")
    assert 0 < change["mapping_seconds"] < change["seconds"] <= elapsed
    assert sum(e.seconds for e in result.epochs) + change["seconds"] <= elapsed
