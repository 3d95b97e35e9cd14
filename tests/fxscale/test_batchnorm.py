from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxscale
from fxscale.batchnorm import reestimate_batchnorm
from fxscale.errors import FxscaleError
from tests.fxscale.hand_plans import SmallNet
from tests.processes import run_together


class Net(nn.Module):
    """Two BatchNorms behind a dropout that would disturb them, one never reached."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.first = nn.BatchNorm2d(3, momentum=0.3)
        self.conv = nn.Conv2d(3, 4, 1)
        self.second = nn.SyncBatchNorm(4, momentum=None)
        self.unused = nn.BatchNorm1d(7)
        self.untracked = nn.BatchNorm2d(4, track_running_stats=False)
        self.calls = 0

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        self.calls += 1
        assert not torch.is_grad_enabled()
        x = self.conv(self.first(self.drop(x * scale)))
        result: Tensor = self.untracked(self.second(x))
        return result


def batches(count: int = 5) -> list[Tensor]:
    return [torch.randn(6, 3, 4, 4) * (i + 1) + i for i in range(count)]


def reference(net: Net, inputs: list[Tensor]) -> dict[str, Tensor]:
    """Means over the batches of the mean and unbiased variance of each batch, in float64."""
    net, sums = copy.deepcopy(net).double(), {}
    for x in (batch.double() for batch in inputs):
        stages = {"first": x}
        normed = (x - mean(x)) / (x.var((0, 2, 3), unbiased=False).view(1, -1, 1, 1) + 1e-5).sqrt()
        stages["second"] = net.conv(normed).detach()
        for name, stage in stages.items():
            for kind, value in (("mean", mean(stage).flatten()), ("var", stage.var((0, 2, 3)))):
                key = f"{name}.running_{kind}"
                sums[key] = sums.get(key, 0) + value / len(inputs)
    return sums


def mean(x: Tensor) -> Tensor:
    return x.mean((0, 2, 3), keepdim=True)


def test_cumulative_average() -> None:
    net, inputs = Net(), batches()
    net.first.running_mean.fill_(9.0)
    expected = reference(net, inputs)
    assert reestimate_batchnorm(net, inputs) == 5
    state = net.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(state[key].double(), value, rtol=1e-4, atol=1e-5)
    assert state["first.num_batches_tracked"] == 5
    assert state["second.num_batches_tracked"] == 5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, torch.zeros(6)),
        lambda x: [x, torch.zeros(6), "path"],
        lambda x: {"x": x, "scale": 1.0},
    ],
    ids=["tensor", "tuple", "list", "dict"],
)
def test_kinds_of_batches(wrap: Any) -> None:
    net, inputs = Net(), batches()
    expected = reference(net, inputs)
    reestimate_batchnorm(net, (wrap(x) for x in inputs))
    torch.testing.assert_close(
        net.first.running_var.double(),
        expected["first.running_var"],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_else_is_as_before(training: bool, fails: bool) -> None:
    net = Net().train(training)
    net.drop.train()
    net.first.eval()  # frozen by the user
    modes = {name: module.training for name, module in net.named_modules()}
    state = copy.deepcopy(net.state_dict())
    rng = torch.get_rng_state(), random.getstate()
    inputs: list[Any] = [*batches(2), torch.randn(6, 5, 4, 4)] if fails else batches(2)
    if fails:
        with pytest.raises(
            FxscaleError, match=r"batch 3 cannot be run through Net .* 5 elements not 3"
        ):
            reestimate_batchnorm(net, inputs)
    else:
        loader = DataLoader(TensorDataset(torch.cat(inputs)), batch_size=4, shuffle=True)
        rng = torch.get_rng_state(), random.getstate()
        reestimate_batchnorm(net, loader)
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all("forward" not in vars(module) for module in net.modules())
    assert (net.first.momentum, net.second.momentum, net.unused.momentum) == (0.3, None, 0.1)
    if not fails:
        assert torch.equal(torch.get_rng_state(), rng[0])
    assert random.getstate() == rng[1]
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, state[key])}
    running = {f"{n}.running_{k}" for n in ("first", "second") for k in ("mean", "var")}
    tracked = {f"{n}.num_batches_tracked" for n in ("first", "second")}
    assert changed == (set() if fails else running | tracked)


def test_an_unreached_batchnorm_keeps_its_statistics() -> None:
    net = Net()
    net.unused.running_mean.fill_(3.0)
    reestimate_batchnorm(net, batches(1))
    assert bool((net.unused.running_mean == 3.0).all())


def test_without_batchnorm_nothing_is_consumed() -> None:
    def never() -> Iterator[Tensor]:
        raise AssertionError
        yield

    assert reestimate_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1)), never()) == 0


def test_wrapped_networks_are_run_inside() -> None:
    net = Net()
    assert reestimate_batchnorm(nn.DataParallel(net), batches(2)) == 2
    assert reestimate_batchnorm(torch.compile(net), batches(3)) == 3
    assert net.calls == 5


def test_bad_batches() -> None:
    net = Net()
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(FxscaleError, match="expected at least one"):
        reestimate_batchnorm(net, [])
    with pytest.raises(FxscaleError, match=r"batch 1: expected a tensor, a tuple .* found str"):
        reestimate_batchnorm(net, ["image.png"])
    with pytest.raises(FxscaleError, match=r"batch 2: expected a tensor, .* found tuple"):
        reestimate_batchnorm(net, [*batches(1), ()])
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_statistics_of_the_same_batches_come_back() -> None:
    net, inputs = SmallNet(12), [torch.randn(32, 2, 12, 12) for _ in range(4)]
    reestimate_batchnorm(net, inputs)
    before = net.norm.running_var.clone()
    reestimate_batchnorm(net, reversed(inputs))
    torch.testing.assert_close(net.norm.running_var, before)


@pytest.mark.gpu
def test_batches_are_moved_to_the_device() -> None:
    net = SmallNet(12).cuda()
    rng = torch.cuda.get_rng_state()
    assert reestimate_batchnorm(net, [torch.randn(8, 2, 12, 12)]) == 1
    assert torch.equal(torch.cuda.get_rng_state(), rng)


TOGETHER = """
import sys
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from fxscale import FxscaleError, reestimate_batchnorm
from tests.processes import leave_group

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
batches = torch.load(sys.argv[1])
torch.manual_seed(0)
first = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
network = nn.Sequential(*first, nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3))
wrapped = DistributedDataParallel(network)
if sys.argv[3] == "synchronised":  # afterwards: DistributedDataParallel wants it on GPUs alone
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    wrapped.module = network
# An uneven share each: one batch for the first process, all others for the second.
share = batches[:1] if rank == 0 else batches[1:]
assert reestimate_batchnorm(wrapped, share) == len(batches)
torch.save(network.state_dict(), f"{sys.argv[2]}/{rank}.pt")

before = {key: value.clone() for key, value in network.state_dict().items()}
try:
    reestimate_batchnorm(wrapped, [torch.ones(1, 1, 5, 5)] if rank == 0 else batches)
except FxscaleError as error:
    print(error)
assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
del wrapped
leave_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "synchronised"])
def test_processes_average_over_all_their_batches(kind: str, tmp_path: Path) -> None:
    inputs = [torch.randn(6, 2, 5, 5) * (i + 1) + i for i in range(4)]
    torch.save(inputs, tmp_path / "batches.pt")
    (tmp_path / "program.py").write_text(TOGETHER)

    outputs = run_together(
        tmp_path / "program.py", 2, str(tmp_path / "batches.pt"), str(tmp_path), kind, limit=100
    )

    torch.manual_seed(0)
    alone = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
    )
    reestimate_batchnorm(alone, inputs)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for key, value in alone.state_dict().items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value)
    assert int(first["1.num_batches_tracked"]) == 4
    # A process that fails tells the other one, which stops as well.
    assert "batch 1 cannot be run through Sequential" in outputs[0]
    assert "failed on 1 other processes" in outputs[1]


def test_timms_batchnorm_with_an_activation_in_a_pretrain_network() -> None:
    """It has code of its own, which a pre-train network runs as the target does."""
    timm = pytest.importorskip("timm")
    target = timm.create_model("tinynet_e", num_classes=3)
    same = fxscale.downscale(target, 64, target_size=64, keep=["*"])
    same.load_state_dict(target.state_dict())
    batches = [torch.randn(4, 3, 64, 64) for _ in range(3)]
    for network in (target, same):
        reestimate_batchnorm(network, batches)
    found = same.state_dict()
    for key, value in target.state_dict().items():
        assert torch.equal(found[key], value), key
    assert int(found["bn1.num_batches_tracked"]) == 3
