"""Progressive resizing against a plain loop, and what every change of phase makes sure of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale.errors import FxscaleError
from fxscale.training import change
from fxscale.training.models import ModelFactory
from fxscale.training.randomness import ORDER, derive
from fxscale.training.run import TrainingResult, train
from fxscale.training.settings import Settings
from tests.fxscale.training.small_runs import Pooled, Tiny, same, settings, squares, unshifted


def test_progressive_resizing_is_a_plain_loop_on_larger_images(tmp_path: Path) -> None:
    images = squares()
    result = train(
        settings(pretrain_sizes=(), progressive_sizes=(17,), channels_last=False),
        tmp_path,
        source=unshifted(images),
        factory=partial(Pooled, dropout=0.0),
        accelerator="cpu",
    )

    torch.manual_seed(0)
    network = Pooled(2, dropout=0.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    sizes = {17: images.resized(17), 24: images}

    def batches(epoch: int, size: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(derive(0, ORDER, epoch))
        order = torch.randperm(70, generator=generator)[:64]  # 6 images are left over
        pictures = sizes[size].train_images.expand(-1, 3, -1, -1)
        return [(pictures[part], images.train_labels[part]) for part in order.split(16)]

    for epoch, size in enumerate((17, 17, 24, 24)):
        if epoch == 2:
            fxscale.reestimate_batchnorm(network, batches(2, 24)[:3])
        for group in optimizer.param_groups:
            group["lr"] = 0.005 if epoch == 3 else 0.05
        network.train()
        for inputs, labels in batches(epoch, size):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
        network.eval()
        logits = network(sizes[size].test_images.expand(-1, 3, -1, -1))
        assert result.epochs[epoch].test_loss == pytest.approx(
            F.cross_entropy(logits, images.test_labels).item(), rel=1e-4
        )
    assert [e.size for e in result.epochs] == [17, 17, 24, 24]
    for key, value in network.state_dict().items():
        torch.testing.assert_close(result.network.state_dict()[key], value, rtol=1e-4, atol=1e-6)


class CrashError(Exception):
    pass


def crashing(left: int) -> Callable[..., object]:
    """An optimizer's step that fails after so many of them."""
    original = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *given: Any) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise CrashError
        return original(self, *given)

    return step


ALONE = settings(
    pretrain_sizes=(), progressive_sizes=(17,), average=0.5, checkpoint_every="3 steps"
)
ON_TOP = settings(progressive_sizes=(17,), resize_at="1,2", checkpoint_every="3 steps")
THREE = [(0, 17), (1, 17), (2, 24), (2, 24)]


@pytest.mark.parametrize(
    ("factory", "chosen", "phases", "steps"),
    [
        # Before and after the transition, which comes after 8 steps; with a moving average.
        *((Pooled, ALONE, [(0, 17), (0, 17), (1, 24), (1, 24)], steps) for steps in (5, 9)),
        # In the pre-train network, in the target's small images and behind them.
        *((Pooled, ON_TOP, THREE, steps) for steps in (3, 6, 11)),
        # The same with a head that is resized twice.
        *((Tiny, ON_TOP, THREE, steps) for steps in (6, 11)),
    ],
)
def test_progressive_resizing_resumes_bit_for_bit(
    factory: ModelFactory,
    chosen: Settings,
    phases: list[tuple[int, int]],
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = unshifted(squares())

    def run(folder: str, *, resume: bool = False) -> TrainingResult:
        return train(
            chosen,
            tmp_path / folder,
            resume=resume,
            source=source,
            factory=factory,
            accelerator="cpu",
        )

    whole = run("whole")
    assert [(epoch.phase, epoch.size) for epoch in whole.epochs] == phases

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", crashing(steps))
        with pytest.raises(CrashError):
            run("broken")
    resumed = run("broken", resume=True)

    assert same(whole.network, resumed.network)
    assert [c.state_hash for c in whole.changes] == [c.state_hash for c in resumed.changes]


def test_compiled_networks_are_compiled_for_each_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[object]) -> nn.Module:
        for node in graph.graph.nodes:
            value = node.meta.get("example_value")
            if node.op == "placeholder" and isinstance(value, Tensor) and value.ndim == 4:
                compiled.extend(value.shape[2:] if value.shape[1] == 3 else ())
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    train(
        settings(
            pretrain_sizes=(),
            progressive_sizes=(17,),
            compile=True,
            epochs=2,
            milestones=(),
            resize_at="1",
        ),
        tmp_path,
        source=unshifted(squares()),
        factory=Pooled,
        accelerator="cpu",
    )
    assert {type(length) for length in compiled} == {int}  # not symbols for any size
    assert set(compiled) == {5, 17, 24}  # 5: the first kernel


def test_processes_with_different_weights_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "gathered", lambda fabric, value: [value, value, "another"])
    with pytest.raises(
        FxscaleError, match="left different weights on the 3 processes: 2 different"
    ):
        train(
            settings(epochs=2, milestones=(), resize_at="1"),
            tmp_path,
            source=unshifted(squares()),
            factory=Pooled,
            accelerator="cpu",
        )
    assert not (tmp_path / "weights.safetensors").exists()
