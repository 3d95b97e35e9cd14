from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fxscale import OnnxError
from fxscale.onnx.feeds import Feed
from fxscale.onnx.reference import Reference, full_precision


class Cancelling(nn.Module):
    """Subtracts two numbers a million times larger than their difference."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1e6))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.scale) - self.scale


def feed(*shape: int) -> Feed:
    return Feed("random", (torch.randn(shape),))


def test_outputs_come_in_the_order_of_the_exporter() -> None:
    class Nested(nn.Module):
        def forward(self, x: Tensor) -> object:
            return {"b": x, "a": (x + 1, [x + 2, None, 3])}

    images = feed(2, 3)
    found = Reference(Nested()).run(images)
    for index, tensor in enumerate(found):
        assert torch.equal(tensor, images.tensors[0] + index)
    assert len(found) == 3


def test_half_on_the_cpu_is_a_float32_copy_rounded() -> None:
    network = nn.Conv2d(3, 4, 3).half()
    images = Feed("random", (torch.randn(2, 3, 8, 8).half(),))
    reference = Reference(network)
    assert reference.is_copy
    (found,) = reference.run(images)
    assert found.dtype == torch.float16
    exact = nn.Conv2d(3, 4, 3).double()
    exact.load_state_dict(network.state_dict())
    expected = exact(images.tensors[0].double()).detach()
    assert torch.equal(found, expected.float().half()) or (
        (found.double() - expected).abs().max() <= 2**-11 * expected.abs().max() * 1.01
    )
    assert network.weight.dtype == torch.float16


def test_runs_in_eval_mode_and_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    network[1].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    reference, images = Reference(network), feed(2, 3, 8, 8)
    first, second = reference.run(images)[0], reference.run(images)[0]
    assert torch.equal(first, second)
    assert reference.roundings(images)[0] < 1e-6
    assert [module.training for module in network] == [True, False, True]
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_rounding_is_measured_against_float64() -> None:
    calm = Reference(nn.Conv2d(3, 4, 3)).roundings(feed(2, 3, 8, 8))
    assert len(calm) == 1
    assert 0 < calm[0] < 1e-6
    # The spacing of float32 at 1e6 is 1/16: half of that is lost, at a scale of about 3.
    (lost,) = Reference(Cancelling()).roundings(feed(1000))
    assert 1 / 32 / 5 < lost < 1 / 32 / 2
    (half,) = Reference(nn.Conv2d(3, 4, 3).half()).roundings(feed(2, 3, 8, 8))
    assert 1e-4 < half < 1e-2


def test_a_module_that_insists_on_its_dtype_excuses_nothing() -> None:
    class Insisting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise TypeError("float32 alone")
            return x

    assert Reference(Insisting()).roundings(feed(3)) == [0.0]


def test_inputs_that_are_not_the_networks_are_told() -> None:
    with pytest.raises(OnnxError, match=r"Conv2d does not run on the file's inputs, \(2, 4\): "):
        Reference(nn.Conv2d(3, 4, 3)).run(feed(2, 4))


def test_tf32_is_off_and_comes_back() -> None:
    settings = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]
    before = [setting.fp32_precision for setting in settings]
    with full_precision():
        assert [setting.fp32_precision for setting in settings] == ["ieee", "ieee"]
    assert [setting.fp32_precision for setting in settings] == before
