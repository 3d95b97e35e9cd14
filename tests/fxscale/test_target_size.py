"""The target's own input size, where the user does not name it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import SizeError
from fxscale.target_size import infer_target_size


def interface(pixels: int, rank: int = 2) -> nn.Sequential:
    """Accepts images of `2 * pixels` or one more, per axis."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    pool = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[rank]
    return nn.Sequential(
        conv(3, 2, 3, padding=1), pool(2), nn.Flatten(), nn.Linear(2 * pixels**rank, 3)
    )


def test_from_the_config_of_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    model.pretrained_cfg = {"input_size": (3, 288, 256)}
    size, source = infer_target_size(model)
    assert size == (288, 256)
    assert source == "pretrained_cfg['input_size'] of the model"
    assert fxscale.downscale(model, 160).plan.target_size_source == source


def test_a_config_of_another_rank_is_ignored() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3))
    model.pretrained_cfg = {"input_size": (3, 288, 288)}
    assert infer_target_size(model)[0] == (224,)


@pytest.mark.slow
def test_from_timm() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet", num_classes=3)
    expected = tuple(model.pretrained_cfg["input_size"][1:])
    assert infer_target_size(model)[0] == expected


@pytest.mark.parametrize(("pixels", "expected"), [(112, 224), (149, 299), (14, 28), (16, 32)])
def test_from_the_fully_connected_interface(pixels: int, expected: int) -> None:
    model = interface(pixels)
    size, _ = infer_target_size(model)
    assert size == (expected, expected)
    assert model(torch.zeros(2, 3, *size)).shape == (2, 3)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    assert infer_target_size(interface(5, rank))[0] == (10,) * rank


def test_a_fully_convolutional_network_takes_the_default() -> None:
    size, source = infer_target_size(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)))
    assert size == (224, 224)
    assert source


def test_a_hard_coded_view_that_would_mix_up_the_batch() -> None:
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)
            self.fc = nn.Linear(4 * 16 * 16, 5)

        def forward(self, x: Tensor) -> Any:
            return self.fc(self.conv(x).view(-1, 4 * 16 * 16))

    size, _ = infer_target_size(View())
    # 31 and 32 pixels give maps of 16; 64 gives four rows for each image.
    assert size in ((31, 31), (32, 32))


def test_no_size_fits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2))
    reason = r"no square input of 8 to 512 pixels runs through Sequential \(at 224: .*197136"
    with pytest.raises(SizeError, match=reason):
        infer_target_size(model)


def test_a_forward_that_branches_on_a_tensor_is_named_as_the_reason() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x.relu() if x.mean() > 0 else x

    with pytest.raises(SizeError, match="forward asks for the contents of a tensor"):
        infer_target_size(Branch())


def test_the_model_is_not_touched() -> None:
    model = interface(14).train()
    model.insert(1, nn.BatchNorm2d(2))
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    infer_target_size(model)
    assert model.training
    assert not model[1].training
    assert "forward" not in vars(model[1])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
