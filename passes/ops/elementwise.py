"""Operators that keep their input's shape: activations, normalisation over channels, dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fxscale.passes.axes import Annotation, Dims, Shape, Statistics, is_spatial, target_length
from fxscale.passes.ops.registry import Call, handles

_ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.LogSoftmax,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.RReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softmax2d,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
_DROPOUT = (
    nn.AlphaDropout,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.FeatureAlphaDropout,
)
# They drop whole paths in train mode only; as leaves, both modes share one graph.
_DROP_PATH = ("torchvision.ops.stochastic_depth:StochasticDepth", "timm.layers.drop:DropPath")
_CHANNEL_NORMALISATION = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LocalResponseNorm,
    nn.SyncBatchNorm,
    "timm.layers.norm_act:BatchNormAct2d",  # with an activation, which keeps the shape, too
)
_FUNCTIONS = (
    F.alpha_dropout,
    F.celu,
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.elu,
    F.feature_alpha_dropout,
    F.gelu,
    F.hardsigmoid,
    F.hardswish,
    F.hardtanh,
    F.leaky_relu,
    F.local_response_norm,
    F.logsigmoid,
    F.mish,
    F.relu,
    F.relu6,
    F.rrelu,
    F.selu,
    F.sigmoid,
    F.silu,
    F.softplus,
    F.softshrink,
    F.softsign,
    F.tanh,
    F.tanhshrink,
    F.threshold,
)
# Names that exist as torch.NAME and Tensor.NAME, computing the same.
_NAMES = (
    "abs",
    "acos",
    "acosh",
    "angle",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "bernoulli",
    "bitwise_not",
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "cos",
    "cosh",
    "deg2rad",
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "frac",
    "i0",
    "isfinite",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_softmax",
    "logical_not",
    "logit",
    "nan_to_num",
    "neg",
    "positive",
    "rad2deg",
    "reciprocal",
    "relu",
    "round",
    "rsqrt",
    "sgn",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinc",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
)
_METHODS = (
    ".bfloat16",
    ".bool",
    ".byte",
    ".ceil_",
    ".clamp_",
    ".clamp_max_",
    ".clamp_min_",
    ".clone",
    ".contiguous",
    ".cpu",
    ".cuda",
    ".detach",
    ".double",
    ".float",
    ".floor_",
    ".half",
    ".int",
    ".log_",
    ".long",
    ".neg_",
    ".reciprocal_",
    ".relu_",
    ".round_",
    ".rsqrt_",
    ".short",
    ".sigmoid_",
    ".square_",
    ".tanh_",
    ".to",
    ".trunc_",
    ".type",
    ".type_as",
    ".exp_",
    ".sqrt_",
    ".abs_",
)
_LIKE = tuple(
    getattr(torch, f"{name}_like") for name in ("empty", "full", "ones", "rand", "randn", "zeros")
)
_TORCH_ONLY = (
    torch.relu_,
    torch.as_tensor,
    torch.clone,
    torch.detach,
    torch.dropout,
    F.log_softmax,
)


@handles(
    *_ACTIVATIONS,
    *_DROPOUT,
    *_DROP_PATH,
    *_FUNCTIONS,
    *(getattr(torch, name) for name in _NAMES),
    *(f".{name}" for name in _NAMES),
    *_METHODS,
    *_TORCH_ONLY,
    *_LIKE,
    nn.CrossMapLRN2d,
)
def keep_shape(call: Call) -> Annotation:
    return call.annotation("input")


@handles(nn.ChannelShuffle, F.channel_shuffle)
def shuffle_channels(call: Call) -> Annotation:
    dims = call.dims()
    if is_spatial(dims[1]):
        raise call.refuse("shuffles a flattened feature map", "shuffle channels, then flatten")
    return Shape(dims)


@handles(nn.Identity)
def identity(call: Call) -> Annotation:
    return call.annotation("input")


@handles(*_CHANNEL_NORMALISATION)
def channel_normalisation(call: Call) -> Annotation:
    dims = call.dims()
    # BatchNorm1d over a flattened feature map has one weight per pixel.
    if len(dims) > 1 and any(axis.spatial for axis in dims[1]) and call.module is not None:
        for name, value in call.module.state_dict().items():
            if value.ndim == 1:
                call.annotator.feature(f"{call.node.target}.{name}", (dims[1],))
        channels = "num_channels" if isinstance(call.module, nn.GroupNorm) else "num_features"
        call.annotator.substitute(call.node, dims[1], attribute=channels)
    groups = call.module.num_groups if isinstance(call.module, nn.GroupNorm) else None
    if not isinstance(call.module, nn.LocalResponseNorm):
        _need_spread(call, dims, groups)
    return Shape(dims)


@handles(F.batch_norm, F.instance_norm)
def normalisation_function(call: Call) -> Annotation:
    _need_spread(call, call.dims())
    return call.annotation("input")


@handles(F.group_norm, params="input num_groups weight bias eps")
def group_norm_function(call: Call) -> Annotation:
    _need_spread(call, call.dims(), call.value("num_groups"))
    return call.annotation("input")


def _need_spread(call: Call, dims: Dims, groups: int | None = None) -> None:
    """Write down over which values statistics are taken; a batch may be a single sample."""
    if any(axis.kernel for dim in dims for axis in dim):
        return  # a weight is standardised: its taps are no pixels
    per_pixel = 1 if groups is None else target_length(dims[1]) // groups
    call.annotator.statistics.append(Statistics(call.node, dims[2:], per_pixel))
