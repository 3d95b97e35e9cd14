"""Networks as people write them: each compiles, learns, leads back, and is itself at its own size.

The sizes are (target, pre-train) per spatial axis.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.corpus import classifiers, dense, generators, signals
from tests.corpus.checks import assert_is_the_target_at_its_own_size, assert_learns_and_leads_back

Size = int | tuple[int, ...]

# Model: channels of each input, target size, pre-train size.
NETWORKS: dict[type[nn.Module], tuple[tuple[int, ...], Size, Size]] = {
    classifiers.LeNet: ((3,), 32, 22),
    classifiers.AlexNet: ((3,), 111, 79),
    classifiers.CifarResNet: ((3,), 32, 24),
    classifiers.OptionAResNet: ((3,), 32, 22),
    classifiers.VGG: ((3,), 32, 24),
    classifiers.SqueezeNet: ((3,), 64, 46),
    classifiers.DenseNet: ((3,), 32, 22),
    classifiers.GoogLeNet: ((3,), 64, 46),
    classifiers.MobileNet: ((3,), 28, 20),
    classifiers.WideResNet: ((3,), 16, 12),
    classifiers.SENet: ((3,), 40, 28),
    classifiers.CBAM: ((3,), 24, 17),
    classifiers.NetworkInNetwork: ((3,), 32, 20),
    classifiers.MultiScaleLeNet: ((3,), 32, 22),
    classifiers.ShuffleNet: ((3,), 32, 22),
    classifiers.ConvNeXt: ((3,), 64, 44),
    classifiers.Siamese: ((1, 1), 20, 14),
    dense.CroppingUNet: ((1,), 44, 32),
    dense.PaddingUNet: ((3,), 33, 24),
    dense.SRCNN: ((1,), 33, 21),
    dense.DnCNN: ((1,), 40, 28),
    dense.ESPCN: ((1,), 17, 12),
    dense.FCN: ((3,), 48, 32),
    dense.ASPP: ((3,), 40, 28),
    dense.PSPNet: ((3,), 48, 34),
    dense.YOLO: ((3,), 64, 48),
    dense.RetinaNet: ((3,), 64, 48),
    dense.HRNet: ((3,), 48, 32),
    dense.CoordConv: ((3,), 24, 16),
    dense.Pix2Pix: ((3,), 64, 48),
    dense.DCGANDiscriminator: ((3,), 32, 24),
    dense.CycleGAN: ((3,), 32, 24),
    dense.PatchGAN: ((3, 3), 32, 24),
    generators.VAE: ((3,), 32, 24),
    generators.WorldModel: ((3,), 64, 48),
    signals.WaveNet: ((1,), 64, 48),
    signals.M5: ((1,), 800, 560),
    signals.TCN: ((2,), 48, 34),
    signals.CausalPad: ((2,), 48, 34),
    signals.EEGNet: ((1,), (16, 256), (16, 192)),
    signals.SpectrogramNet: ((1,), (24, 64), (16, 44)),
    signals.C3D: ((3,), (8, 16, 16), (6, 12, 12)),
    signals.R2Plus1D: ((3,), (8, 32, 32), (6, 22, 22)),
    signals.VNet: ((1,), 16, 12),
    signals.CRNN: ((1,), (16, 40), (12, 30)),
    signals.DeepSpeech: ((1,), (16, 40), (12, 30)),
}

BATCH = 2
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def images(model: type[nn.Module], size: Size) -> tuple[Tensor, ...]:
    rank = next(m.weight.ndim for m in model().modules() if isinstance(m, CONVOLUTIONS)) - 2
    full = (size,) * rank if isinstance(size, int) else size
    return tuple(torch.randn(BATCH, channels, *full) for channels in NETWORKS[model][0])


@pytest.fixture(params=NETWORKS, ids=lambda model: model.__name__)
def network(request: pytest.FixtureRequest) -> type[nn.Module]:
    model: type[nn.Module] = request.param
    return model


def test_compiles_learns_and_leads_back(network: type[nn.Module]) -> None:
    _, large, small = NETWORKS[network]
    plan = assert_learns_and_leads_back(network(), images(network, large), images(network, small))
    assert plan.mac_ratio > 1


def test_is_the_target_at_its_own_size(network: type[nn.Module]) -> None:
    assert_is_the_target_at_its_own_size(network(), images(network, NETWORKS[network][1]))
