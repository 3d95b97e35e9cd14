from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, Adamax

import fxscale
from fxscale.errors import FxscaleError, PlanMismatchError, StateMismatchError
from fxscale.resample import Interpolation
from fxscale.transition import transition
from fxscale.upscale import upscale_state
from tests.fxscale.hand_plans import SmallNet


def trained() -> tuple[SmallNet, SGD]:
    small = SmallNet(8)
    optimizer = SGD(small.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        small(torch.randn(16, 2, 8, 8)).square().sum().backward()
        optimizer.step()
    return small, optimizer


def batches(count: int = 3) -> list[torch.Tensor]:
    return [torch.randn(16, 2, 12, 12) for _ in range(count)]


def test_the_state_alone() -> None:
    (small, _), target = trained(), SmallNet(12)
    report = transition(small, target)
    expected = upscale_state(small)
    assert all(torch.equal(value, expected[key]) for key, value in target.state_dict().items())
    assert (report.resized, report.copied) == (3, len(expected) - 3)
    assert (report.optimizer, report.batchnorm_batches) == (None, 0)
    assert str(report) == "transition: 3 entries resized, 9 copied"


def test_state_optimizer_and_batchnorm() -> None:
    (small, optimizer), target = trained(), SmallNet(12).eval()
    report = transition(small, target, optimizer=optimizer, batches=iter(batches()))
    assert isinstance(report.optimizer, SGD)
    assert {id(p) for p in target.parameters()} == {id(p) for p in report.optimizer.state}
    assert report.batchnorm_batches == 3
    assert target.norm.num_batches_tracked == 3
    assert not torch.equal(target.norm.running_mean, small.norm.running_mean)
    assert not target.training
    assert str(report).endswith("SGD state carried, BatchNorm re-estimated over 3 batches")
    target.train()(torch.randn(4, 2, 12, 12)).sum().backward()
    report.optimizer.step()


def test_a_given_new_optimizer() -> None:
    (small, optimizer), target = trained(), SmallNet(12)
    new = SGD(target.parameters(), lr=7.0)
    report = transition(small, target, optimizer=optimizer, new_optimizer=new)
    assert report.optimizer is new
    assert new.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_networks(wrap: Any) -> None:
    (small, optimizer), target = trained(), SmallNet(12)
    report = transition(wrap(small), wrap(target), optimizer=optimizer, batches=batches())
    expected = upscale_state(small)
    assert torch.equal(target.conv.weight, expected["conv.weight"])
    assert report.batchnorm_batches == 3


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel() -> None:
    (small, optimizer), target = trained(), SmallNet(12)
    expected = upscale_state(small)
    wrapped = torch.compile(DistributedDataParallel(target))
    report = transition(
        DistributedDataParallel(small),
        wrapped,
        optimizer=optimizer,
        batches=batches(),
    )
    assert torch.equal(target.conv.weight, expected["conv.weight"])
    assert report.batchnorm_batches == 3
    saved = DistributedDataParallel(small).state_dict()
    assert torch.equal(upscale_state(small.plan, saved)["fc.weight"], expected["fc.weight"])


def test_lightning_fabric() -> None:
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    (small, optimizer), target = trained(), SmallNet(12)
    wrapped_small, wrapped_optimizer = fabric.setup(small, optimizer)
    wrapped, new = fabric.setup(target, SGD(target.parameters(), lr=7.0))
    transition(wrapped_small, wrapped, optimizer=wrapped_optimizer, new_optimizer=new)
    assert torch.equal(target.conv.weight, upscale_state(small)["conv.weight"])
    assert new.param_groups[0]["lr"] == 0.1
    wrapped(torch.randn(4, 2, 12, 12)).sum().backward()
    new.step()
    assert len(new.optimizer.state) == len(list(target.parameters()))


def test_dtype_and_bicubic() -> None:
    (small, _), target = trained(), SmallNet(12).half()
    transition(small, target, interpolation="bicubic")
    expected = upscale_state(small, interpolation="bicubic")
    assert torch.equal(target.conv.weight, expected["conv.weight"].half())


def test_nothing_is_touched_where_anything_is_wrong() -> None:
    small, optimizer = trained()
    target = SmallNet(12)
    new = SGD(target.parameters(), lr=7.0)
    before = copy.deepcopy((target.state_dict(), new.state_dict()))
    broken = copy.deepcopy(small)
    broken.head.bias.data.fill_(torch.nan)
    fine: dict[str, Any] = {"pretrain": small, "optimizer": optimizer, "new_optimizer": new}
    cases: list[tuple[dict[str, Any], type[FxscaleError], str]] = [
        ({"pretrain": broken}, StateMismatchError, r"head\.bias: expected finite values"),
        ({"pretrain": SmallNet(12)}, PlanMismatchError, "carries no plan"),
        ({"batches": []}, FxscaleError, "no batches to re-estimate BatchNorm over"),
        ({"optimizer": None}, FxscaleError, "new_optimizer without optimizer"),
        ({"optimizer": Adam(small.parameters())}, FxscaleError, "expected Adam, found SGD"),
        ({"optimizer": Adamax(small.parameters())}, FxscaleError, "state of Adamax"),
        ({"interpolation": "cubic"}, FxscaleError, "'bilinear' or 'bicubic', not 'cubic'"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            transition(target=target, **{**fine, **change})
        assert torch.equal(target.conv.weight, before[0]["conv.weight"])
        assert target.state_dict().keys() == before[0].keys()
        assert new.state_dict() == before[1]
    transition(target=target, **fine)  # the accepted neighbour


def test_another_target() -> None:
    small, _ = trained()
    with pytest.raises(PlanMismatchError, match=r"larger than 8 or .*, found one for 8"):
        transition(small, SmallNet(8))
    other = SmallNet(8)
    del other.plan
    with pytest.raises(
        PlanMismatchError,
        match=r"another network \(SmallNet\): 3 entries of SmallNet differ, the first "
        r"'conv\.weight': expected shape \(6, 2, 3, 3\), found shape \(6, 2, 2, 2\)",
    ):
        transition(small, other)
    with pytest.raises(
        PlanMismatchError, match=r"14 entries of Linear differ, .* 'bias': expected no such"
    ):
        transition(small, nn.Linear(2, 2))


def test_a_batch_that_cannot_be_run() -> None:
    (small, _), target = trained(), SmallNet(12)
    with pytest.raises(FxscaleError, match="batch 1 cannot be run through SmallNet"):
        transition(small, target, batches=[torch.randn(2, 5, 12, 12)])
    assert torch.equal(target.norm.running_mean, small.norm.running_mean)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_from_one_pretrain_stage_to_the_next(interpolation: Interpolation) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 7, padding=3)
            self.norm = nn.BatchNorm2d(4)
            self.fc = nn.Linear(4 * 14 * 14, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
            logits: Tensor = self.fc(x.flatten(1))
            return logits

    target = Net()
    small = fxscale.downscale(target, 14, target_size=28, kernels={"conv": 3})
    middle = fxscale.downscale(target, 20, target_size=28, kernels={"conv": 5})
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        small(torch.randn(4, 1, 14, 14)).square().mean().backward()
        optimizer.step()
    momentum = optimizer.state[small.conv.weight]["momentum_buffer"]

    report = transition(
        small,
        middle,
        optimizer=optimizer,
        batches=[torch.randn(4, 1, 20, 20) for _ in range(2)],
        interpolation=interpolation,
    )

    def resized(weight: Tensor, size: int) -> Tensor:
        grown = nn.functional.interpolate(weight, (size, size), mode=interpolation)
        return grown * (weight.shape[-1] / size) ** 2

    torch.testing.assert_close(middle.conv.weight, resized(small.conv.weight, 5))
    view = small.fc.weight.view(12, 1, 7, 7), middle.fc.weight.view(12, 1, 10, 10)
    torch.testing.assert_close(view[1], resized(view[0], 10))
    assert torch.equal(middle.norm.weight, small.norm.weight)
    assert report.optimizer is not None
    carried = report.optimizer.state[middle.conv.weight]["momentum_buffer"]
    torch.testing.assert_close(carried, resized(momentum, 5))
    assert report.batchnorm_batches == 2
    # And on to the target.
    transition(middle, target, optimizer=report.optimizer, interpolation=interpolation)
    torch.testing.assert_close(target.conv.weight, resized(middle.conv.weight, 7))
