"""`Transition` against a plain loop, against itself resumed, and what survives it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

import fxscale  # noqa: E402
from fxscale.errors import FxscaleError, PlanMismatchError  # noqa: E402
from fxscale.lightning import Transition  # noqa: E402
from fxscale.schedules import At, BeforeDrop, LearningRules, OnPlateau  # noqa: E402
from tests.fxscale.lightning.small_fits import (  # noqa: E402
    BATCH,
    FULL,
    SMALL,
    Classifier,
    Data,
    fit,
    pair,
    pictures,
    schedule,
    trainer,
)

# Of Lightning's own code; of torch's SequentialLR; advice about loaders that a test ignores.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]


def equal(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def plain_loop() -> tuple[nn.Module, Tensor, list[float]]:
    """The run of `fit`, without Lightning and without the callback."""
    small, target = pair()
    bias = nn.Parameter(torch.zeros(2))
    network: nn.Module = small
    optimizer = torch.optim.SGD([bias, *network.parameters()], lr=0.1, momentum=0.9)
    scheduler = schedule(optimizer)
    rates = []
    for epoch in range(4):
        images, labels = pictures(SMALL if epoch < 2 else FULL, "train")
        if epoch == 2:
            report = fxscale.transition(
                network, target, optimizer=_without(optimizer, bias), batches=images.split(BATCH)
            )
            new = report.optimizer
            assert new is not None
            momentum = optimizer.state[bias]
            new.param_groups[0]["params"].insert(0, bias)
            new.state[bias] = momentum
            fxscale.move_scheduler(scheduler, new)
            network, optimizer = target, new
        for part, answers in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            loss = F.cross_entropy(network(part) + bias, answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return network, bias, rates


def _without(optimizer: torch.optim.Optimizer, bias: Tensor) -> torch.optim.Optimizer:
    other = torch.optim.SGD(optimizer.param_groups[0]["params"][1:], lr=0.1, momentum=0.9)
    other.param_groups[0].update({k: v for k, v in optimizer.param_groups[0].items() if k == "lr"})
    other.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["initial_lr"]
    other.state.update({p: s for p, s in optimizer.state.items() if p is not bias})
    return other


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_fits_as_a_plain_loop_does() -> None:
    network, bias, expected = plain_loop()
    rates, data = Rates(), Data()
    module, over, _ = fit(rates, data=data, limit_val_batches=0)
    assert module.network is over.networks[-1]
    assert module.sizes == [SMALL] * 6 + [FULL] * 6
    assert rates.rates == expected
    assert len(set(expected)) == 3
    torch.testing.assert_close(module.bias, bias, rtol=0, atol=0)
    assert equal(module.network, network)
    assert data.asked == [("train", SMALL), ("train", FULL)]


def test_validation_sees_the_resolution_of_the_phase() -> None:
    data = Data()
    fit(data=data)
    assert data.asked == [("train", SMALL), ("test", SMALL), ("train", FULL), ("test", FULL)]


def test_persistent_workers_lose_no_batch() -> None:
    module, *_ = fit(limit_val_batches=0)
    same, *_ = fit(limit_val_batches=0, data=Data(workers=1))
    assert same.sizes == module.sizes
    assert equal(same, module)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_resumed_on_both_sides_of_the_transition(tmp_path: Path, kind: str) -> None:
    def saving() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)

    whole, *_ = fit(saving(), kind=kind, enable_checkpointing=True)
    for epoch in range(3):
        path = tmp_path / f"epoch={epoch}.ckpt"
        stored = torch.load(path, weights_only=True)["callbacks"]["Transition"]["phase"]
        assert stored == (epoch >= 2)
        resumed, over, _ = fit(kind=kind, resume=path)
        assert over.phase == 1
        assert resumed.sizes == whole.sizes[3 * (epoch + 1) :]
        assert equal(resumed, whole), epoch


@pytest.mark.parametrize("epoch", [1, 2])
def test_checkpoints_of_the_validation_resume(tmp_path: Path, epoch: int) -> None:
    """Lightning saves these before the epoch ends."""
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, monitor="loss")
    whole, *_ = fit(saving, enable_checkpointing=True)
    resumed, *_ = fit(resume=tmp_path / f"epoch={epoch}.ckpt")
    assert resumed.sizes == whole.sizes[3 * (epoch + 1) :]
    # Lightning's own resumption steps no scheduler for the epoch that was cut short.
    assert resumed.network is not whole.network


def test_the_best_checkpoint_of_the_pre_train_phase_can_be_validated(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    data = Data()
    module, over, runner = fit(saving, enable_checkpointing=True, data=data)
    path = tmp_path / "epoch=0.ckpt"
    (metrics,) = runner.validate(module, datamodule=data, ckpt_path=path, verbose=False)
    assert module.network is over.networks[0]
    assert data.size == SMALL
    network = copy.deepcopy(module.network)
    state = torch.load(path, weights_only=True)["state_dict"]
    network.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k != "bias"}
    )
    network.eval()
    images, labels = pictures(SMALL, "test")
    loss = F.cross_entropy(network(images) + state["bias"], labels)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_checkpoint_of_a_network_with_other_paddings(tmp_path: Path) -> None:
    """As another version of fxscale may have compiled it: its weights fit."""
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(saving, enable_checkpointing=True)
    path = tmp_path / "epoch=0.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["Transition"]["layout"] = "of another version"
    torch.save(checkpoint, path)
    with pytest.raises(PlanMismatchError, match="a pre-train network with other paddings or map"):
        fit(resume=path)


def test_moving_averages_are_mapped_as_the_weights_are(tmp_path: Path) -> None:
    class Before(Callback):
        """The state of the average, as the transition finds it."""

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                self.state = copy.deepcopy(average._average_model.module.network.state_dict())
                self.own = copy.deepcopy(pl_module.average.module.state_dict())

    class After(Before):
        pass

    average = EMAWeightAveraging(decay=0.5)
    before, after = Before(), After()
    small, target = pair()
    module = Classifier(small)
    module.average = AveragedModel(small)
    over = Transition(target, 2, resolution="size", batchnorm_batches=0)
    runner = trainer(average, before, over, after)
    runner.fit(module, datamodule=Data())
    for found, start in ((after.state, before.state), (after.own, before.own)):
        expected = fxscale.upscale_state(small.plan, start)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
    assert type(module.average.module) is type(target)
    assert equal(module.network, average._average_model.module.network)  # taken over at the end


def test_averages_are_resumed_after_the_transition(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole, *_ = fit(EMAWeightAveraging(decay=0.5), saving, enable_checkpointing=True)
    resumed, *_ = fit(EMAWeightAveraging(decay=0.5), resume=tmp_path / "epoch=2.ckpt")
    assert equal(resumed, whole)


def test_a_grad_scaler_keeps_its_scale() -> None:
    class Scales(Callback):
        def __init__(self) -> None:
            self.scales: list[float] = []

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.scales.append(trainer.precision_plugin.scaler.get_scale())

    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
    scales = Scales()
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    module, *_ = fit(scales, plugins=[plugin])
    assert scales.scales == [8.0, 16.0, 32.0, 64.0]  # three steps an epoch
    assert module.network[0].weight.shape[-1] == 3


def test_three_stages() -> None:
    torch.manual_seed(1)
    target = pair()[1]
    first, second = (fxscale.downscale(target, size, target_size=FULL) for size in (8, 10))
    data, module = Data(), Classifier(first)
    over = Transition([second, target], At((1, 3)), resolution=lambda s: setattr(data, "size", s))
    trainer(over).fit(module, datamodule=data)
    assert module.sizes == [(8, 8)] * 3 + [(10, 10)] * 6 + [FULL] * 3
    assert module.network is target


def test_on_a_plateau() -> None:
    class Flat(Classifier):
        def validation_step(self, batch: Any, index: int) -> None:
            self.log("error", [0.5, 0.4, 0.4, 0.4, 0.1, 0.1][self.current_epoch])

    small, target = pair()
    module = Flat(small)
    over = Transition(target, OnPlateau(2), resolution="size", monitor="error", mode="min")
    trainer(over, epochs=6).fit(module, datamodule=Data())
    assert module.sizes.index(FULL) == 3 * 4


def test_a_compiled_network_gives_way_to_a_compiled_target() -> None:
    small, target = pair()
    module = Classifier(torch.compile(small, backend="eager"))  # type: ignore[arg-type]
    larger: Any = torch.compile(target, backend="eager")
    trainer(Transition(larger, 2, resolution="size")).fit(module, datamodule=Data())
    assert module.network is larger
    plain, *_ = fit()
    torch.testing.assert_close(target.state_dict(), plain.network.state_dict())


def test_before_the_first_drop_of_the_rate() -> None:
    rules = LearningRules.drops(4, 0.1, (3,))
    module, *_ = fit(at=BeforeDrop(2), transition={"rules": rules})
    assert module.sizes.index(FULL) == 3 * 1


def test_schedulers_that_watch_a_figure_go_on() -> None:
    class Watching(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, mode="max")
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "constant"},
            }

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("constant", 1.0)

    small, target = pair()
    rates = Rates()
    trainer(Transition(target, 2, resolution="size"), rates).fit(Watching(small), datamodule=Data())
    assert rates.rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_frozen_layers_stay_frozen() -> None:
    small, target = pair()
    small.get_submodule("0").requires_grad_(False)
    module = Classifier(small)
    trainer(Transition(target, 2, resolution="size")).fit(module, datamodule=Data())
    assert [p.requires_grad for p in target.parameters()] == [False] * 2 + [True] * 6


def test_refusals() -> None:
    small, target = pair()
    with pytest.raises(FxscaleError, match="name what the module logs as `monitor`"):
        Transition(target, OnPlateau(), resolution=None)
    with pytest.raises(PlanMismatchError, match="expected one pre-train network in Classifier, fo"):
        trainer(Transition(target, 1, resolution="size")).fit(Classifier(target), datamodule=Data())
    with pytest.raises(FxscaleError, match="Data has no attribute 'pixels' for the input size"):
        trainer(Transition(target, 1, resolution="pixels")).fit(
            Classifier(small), datamodule=Data()
        )
    with pytest.raises(FxscaleError, match="must lie between 1 and 3"):
        trainer(Transition(target, 4, resolution="size")).fit(Classifier(small), datamodule=Data())
    with pytest.raises(
        FxscaleError, match=r"expected the module to log 'top1' .* found \['loss'\]"
    ):
        fit(transition={"monitor": "top1"})


def test_two_networks_need_a_name() -> None:
    small, target = pair()
    module = Classifier(small)
    module.teacher = copy.deepcopy(small)
    over = Transition(target, 2, resolution="size", batchnorm_batches=0)
    with pytest.raises(PlanMismatchError, match=r"found 2.*network='\.\.\.'"):
        trainer(over).fit(module, datamodule=Data())
    with pytest.raises(PlanMismatchError, match=r"in Classifier at 'network\.0', found 0"):
        trainer(Transition(target, 2, resolution="size", network="network.0")).fit(
            module, datamodule=Data()
        )
    over = Transition(target, 2, resolution="size", network="network", batchnorm_batches=0)
    trainer(over).fit(module, datamodule=Data())
    assert module.network is target


def test_checkpoints_of_other_stages_are_refused(tmp_path: Path) -> None:
    target = pair()[1]
    first, second = (fxscale.downscale(target, size, target_size=FULL) for size in (8, 10))
    saving = ModelCheckpoint(tmp_path, "last")
    over = Transition([second, target], At((1, 2)), resolution="size")
    runner = trainer(saving, over, enable_checkpointing=True)
    runner.fit(Classifier(first), datamodule=Data())
    with pytest.raises(
        PlanMismatchError, match="network of stage 2, counted from 0, but there are"
    ):
        fit(resume=tmp_path / "last.ckpt")


def test_optimizers_made_too_early_are_told() -> None:
    class Early(Classifier):
        def __init__(self, network: nn.Module) -> None:
            super().__init__(network)
            self.kept = torch.optim.SGD([self.bias], lr=0.1)

        def configure_optimizers(self) -> Any:
            return self.kept

    small, target = pair()
    with pytest.raises(FxscaleError, match="make optimizers in configure_optimizers"):
        trainer(Transition(target, 1, resolution="size")).fit(Early(small), datamodule=Data())
