"""Networks of libraries that people train with and that the zoo does not need to be there.

    pip install --no-deps segmentation-models-pytorch monai pytorchcv
    python -m benchmarks.zoo --sets smp monai pytorchcv

segmentation_models_pytorch: every decoder, and a U-Net on an encoder of every family. MONAI: its
convolutional networks over pictures and over volumes, with few channels. pytorchcv: the first model
of every family.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

Build = Callable[[], nn.Module]
Network = tuple[tuple[int, ...], Build]
"""Target size, and what makes the module."""

DECODERS = (
    "DeepLabV3",
    "DeepLabV3Plus",
    "DPT",
    "FPN",
    "Linknet",
    "MAnet",
    "PAN",
    "PSPNet",
    "Segformer",
    "UPerNet",
    "Unet",
    "UnetPlusPlus",
)
ENCODERS = (
    "densenet121",
    "dpn68",
    "efficientnet-b0",
    "inceptionresnetv2",
    "inceptionv4",
    "mit_b0",
    "mobilenet_v2",
    "mobileone_s0",
    "resnext50_32x4d",
    "se_resnet50",
    "timm-efficientnet-b0",
    "timm-gernet_s",
    "timm-mobilenetv3_small_075",
    "timm-regnetx_002",
    "timm-res2net50_26w_4s",
    "timm-resnest14d",
    "timm-skresnet18",
    "tu-convnext_atto",
    "tu-hrnet_w18_small",
    "tu-resnet18d",
    "vgg11_bn",
    "xception",
)
SEGMENTED = (128, 128)
PICTURE, VOLUME = (96, 96), (64, 64, 64)
NO_PICTURES = (
    *("jasper", "jasperdr", "quartznet", "visemenet", "voca"),
    *("nvpattexp", "pfpcnet", "propainter", "propainter_ip", "propainter_rfc", "raft"),
)
"""Modules of pytorchcv whose networks read sound, or more than one picture."""

_GREY: Mapping[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
LARGEST, SMALLER = 400, 256  # pixels a side: networks for larger images are built for smaller ones


def smp() -> Mapping[str, Network]:
    models: Any = import_module("segmentation_models_pytorch")
    pairs = [(decoder, "resnet18") for decoder in DECODERS if decoder != "DPT"]
    pairs += [("DPT", "tu-vit_tiny_patch16_224"), *(("Unet", encoder) for encoder in ENCODERS)]
    found: dict[str, Network] = {
        f"{decoder}-{encoder}": (
            SEGMENTED if decoder != "DPT" else (224, 224),
            partial(getattr(models, decoder), encoder, encoder_weights=None, classes=3),
        )
        for decoder, encoder in pairs
    }
    more = {"scse": {"decoder_attention_type": "scse"}, "aux": {"aux_params": {"classes": 4}}}
    for name, options in more.items():
        build = partial(models.Unet, "resnet18", encoder_weights=None, **options)
        found[f"Unet-resnet18-{name}"] = (SEGMENTED, build)
    return found


def monai() -> Mapping[str, Network]:
    nets: Any = import_module("monai.networks.nets")
    return {
        f"{name}-{rank}d": (size, build)
        for rank, size in ((2, PICTURE), (3, VOLUME))
        for name, build in _of_rank(nets, rank, size)
    }


def _of_rank(nets: Any, rank: int, size: tuple[int, ...]) -> Iterator[tuple[str, Build]]:
    shape = (3, *size)
    maps = {"spatial_dims": rank, "in_channels": 3, "out_channels": 2}
    levels = {"channels": (8, 16, 32), "strides": (2, 2)}
    features = {"features": (8, 8, 16, 32, 64, 8)}
    classes = {"in_shape": shape, "channels": (8, 16), "strides": (2, 2)}
    coded = {"channels": (8, 16), "num_res_channels": (8, 16), "num_embeddings": 16}
    yield "AttentionUnet", partial(nets.AttentionUnet, **maps, **levels)
    yield "AutoEncoder", partial(nets.AutoEncoder, **maps, channels=(8, 16), strides=(2, 2))
    yield (
        "AutoencoderKL",
        partial(
            nets.AutoencoderKL,
            **maps,
            channels=(8, 16),
            num_res_blocks=(1, 1),
            norm_num_groups=4,
            # Attention of every voxel with every other takes gigabytes.
            attention_levels=(False, rank == 2),
            with_encoder_nonlocal_attn=rank == 2,
            with_decoder_nonlocal_attn=rank == 2,
        ),
    )
    yield "BasicUNet", partial(nets.BasicUNet, **maps, **features)
    yield "BasicUNetPlusPlus", partial(nets.BasicUNetPlusPlus, **maps, **features)
    yield "Classifier", partial(nets.Classifier, **classes, classes=3)
    yield "DenseNet121", partial(nets.DenseNet121, **maps)
    yield (
        "DynUNet",
        partial(
            nets.DynUNet,
            **maps,
            kernel_size=[3, 3, 3],
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            filters=[8, 16, 32],
        ),
    )
    encoder = {"backbone": "efficientnet-b0", "in_channels": 3, "out_channels": 2}
    yield "FlexibleUNet", partial(nets.FlexibleUNet, **encoder, spatial_dims=rank)
    yield "HighResNet", partial(nets.HighResNet, **maps)
    yield "MedNeXt", partial(nets.MedNeXt, **maps, init_filters=8)
    yield (
        "PatchDiscriminator",
        partial(nets.PatchDiscriminator, spatial_dims=rank, in_channels=3, channels=8),
    )
    yield "Regressor", partial(nets.Regressor, **classes, out_shape=(3,))
    yield "ResNet18", partial(nets.resnet18, spatial_dims=rank, n_input_channels=3, num_classes=2)
    yield "SEResNet50", partial(nets.SEResNet50, spatial_dims=rank, in_channels=3, num_classes=2)
    yield "SegResNet", partial(nets.SegResNet, **maps, init_filters=8)
    yield "SegResNetDS", partial(nets.SegResNetDS, **maps, init_filters=8)
    yield "SegResNetVAE", partial(nets.SegResNetVAE, size, **maps, init_filters=8)
    yield "UNETR", partial(nets.UNETR, 3, 2, size, spatial_dims=rank, hidden_size=48, num_heads=4)
    yield "UNet", partial(nets.UNet, **maps, **levels, num_res_units=2)
    yield "VNet", lambda: nn.Sequential(_GREY[rank](3, 1, 1), nets.VNet(rank, 1, 2))
    yield (
        "VQVAE",
        partial(
            nets.VQVAE,
            **maps,
            **coded,
            embedding_dim=8,
            downsample_parameters=((2, 4, 1, 1),) * 2,
            upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        ),
    )
    if rank == 2:
        yield "Quicknat", partial(nets.Quicknat, num_classes=2, num_channels=3, num_filters=8)


def pytorchcv() -> Mapping[str, Network]:
    package: Any = import_module("pytorchcv.models")
    found: dict[str, Network] = {}
    for file in pkgutil.iter_modules(package.__path__):
        if file.name in NO_PICTURES:
            continue
        module = import_module(f"{package.__name__}.{file.name}")
        public = getattr(module, "__all__", ())
        makers = [name for name in public if _makes_a_model(getattr(module, name))]
        if makers:
            build = getattr(module, makers[0])
            size = _written_size(module, public)
            options = {}
            if max(size) > LARGEST:
                size = (SMALLER,) * len(size)
                options["in_size"] = size
            found[makers[0]] = size, partial(build, pretrained=False, **options)
    return found


def _makes_a_model(thing: Any) -> bool:
    """Models are made by functions that take options alone, and hand them on."""
    if not inspect.isfunction(thing):
        return False
    *named, last = inspect.signature(thing).parameters.values() or [None]
    given = all(parameter.default is not inspect.Parameter.empty for parameter in named)
    return given and last is not None and last.kind is inspect.Parameter.VAR_KEYWORD


def _written_size(module: Any, public: tuple[str, ...]) -> tuple[int, ...]:
    """The size that the classes of a module are made for."""
    for name in public:
        if inspect.isclass(getattr(module, name)):
            parameter = inspect.signature(getattr(module, name)).parameters.get("in_size")
            if parameter is not None and isinstance(parameter.default, tuple):
                return tuple(parameter.default)
    return (224, 224)


LIBRARIES: Mapping[str, Callable[[], Mapping[str, Network]]] = {
    "smp": smp,
    "monai": monai,
    "pytorchcv": pytorchcv,
}
