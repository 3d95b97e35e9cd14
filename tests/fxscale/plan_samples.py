"""Plans made by hand and by hypothesis, for tests of everything that reads plans."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from math import prod
from typing import Any

from hypothesis import strategies as st

from fxscale.plan import (
    ConvCall,
    ConvPlan,
    FeatureMap,
    InterfacePlan,
    Padding,
    ScalePlan,
    Size,
    StateMap,
)


def conv(
    name: str,
    channels: tuple[int, int],
    kernels: tuple[int, int],
    outputs: tuple[int, int],
    *,
    inputs: tuple[int, int] | None = None,
    stride: int = 1,
    paddings: tuple[Padding, Padding] = (((0, 0), (0, 0)), ((0, 0), (0, 0))),
    pad_operator: bool = False,
    calls: int = 1,
    groups: int = 1,
    transposed: bool = False,
) -> ConvPlan:
    """A square convolution; pairs are (target, pre-train), but `channels` (in, out)."""
    inputs = inputs or outputs
    call = ConvCall(
        node=name.replace(".", "_"),
        target_input=(inputs[0],) * 2,
        target_output=(outputs[0],) * 2,
        pretrain_input=(inputs[1],) * 2,
        pretrain_output=(outputs[1],) * 2,
        target_padding=paddings[0],
        pretrain_padding=paddings[1],
        pad_operator=pad_operator,
    )
    return ConvPlan(
        name=name,
        weight=f"{name}.weight",
        operator="Conv2d",
        in_channels=channels[0],
        out_channels=channels[1],
        groups=groups,
        kernel_size=(kernels[0],) * 2,
        pretrain_kernel_size=(kernels[1],) * 2,
        stride=(stride,) * 2,
        dilation=(1, 1),
        calls=(call,) * calls,
        transposed=transposed,
    )


def plan(*convs: ConvPlan, **changes: Any) -> ScalePlan:
    """A plan of these convolutions, everything else small and plausible."""
    values: dict[str, Any] = {
        "model": "Sample",
        "fingerprint": "0" * 64,
        "target_size": (224, 224),
        "pretrain_size": (160, 160),
        "target_size_source": "given",
        "kernels": "paper",
        "convs": convs,
        "interfaces": (),
        "feature_maps": (),
        "pad_operators": (),
        "dense_macs": (0, 0),
        "state": (),
    }
    return ScalePlan(**(values | changes))


def overfeat_fast() -> ScalePlan:
    """OverFeat-fast 231 -> 147 as the paper has it, worked out by hand."""
    one, none = ((1, 1), (1, 1)), ((0, 0), (0, 0))
    lopsided = ((0, 1), (0, 1))
    return plan(
        conv("features.0", (3, 96), (11, 7), (56, 36), inputs=(231, 147), stride=4),
        conv("features.3", (96, 256), (5, 3), (24, 16), inputs=(28, 18)),
        conv(
            "features.6", (256, 512), (3, 2), (12, 8), paddings=(one, lopsided), pad_operator=True
        ),
        conv("features.8", (512, 1024), (3, 2), (12, 9), paddings=(one, one)),
        conv("features.10", (1024, 1024), (3, 2), (12, 8), paddings=(one, none)),
        model="OverFeatFast",
        target_size=(231, 231),
        pretrain_size=(147, 147),
        target_size_source="the size that the fully connected interface accepts",
        interfaces=(
            InterfacePlan("classifier.0", "classifier.0.weight", 1024, 3072, (6, 6), (4, 4)),
        ),
        feature_maps=(
            FeatureMap("features_0", "features.0", (56, 56), (36, 36), (0.0, 0.0)),
            FeatureMap("features_6", "features.6", (12, 12), (8, 8), (0.25, -0.5)),
            FeatureMap("features_8", "features.8", (12, 12), (9, 9), (0.5, 0.5)),
        ),
        pad_operators=("features_6_pad",),
        dense_macs=(
            1024 * 36 * 3072 + 3072 * 4096 + 4096 * 1000,
            1024 * 16 * 3072 + 3072 * 4096 + 4096 * 1000,
        ),
        state=(
            StateMap(
                "features.0.weight",
                "kernel",
                (96, 3, 7, 7),
                (96, 3, 11, 11),
                (96, 3, 7, 7),
                (96, 3, 11, 11),
            ),
            StateMap(
                "classifier.0.weight",
                "interface",
                (3072, 16384),
                (3072, 36864),
                (3072, 1024, 4, 4),
                (3072, 1024, 6, 6),
            ),
            StateMap("steps", "copy", (), (), (), ()),
        ),
    )


# Plans by hypothesis: any plan that the compiler could write, not only sensible networks. ---------

_names = st.text(max_size=12)
_counts = st.integers(1, 2**40)
_ranks = st.integers(1, 3)


def _sizes(rank: int) -> st.SearchStrategy[Size]:
    return st.tuples(*(st.integers(1, 500),) * rank)


def _paddings(rank: int) -> st.SearchStrategy[Padding]:
    side = st.integers(-3, 7)
    return st.tuples(*(st.tuples(side, side),) * rank)


def _calls(rank: int) -> st.SearchStrategy[ConvCall]:
    size, padding = _sizes(rank), _paddings(rank)
    return st.builds(ConvCall, _names, size, size, size, size, padding, padding, st.booleans())


def _convs(rank: int) -> st.SearchStrategy[ConvPlan]:
    size = _sizes(rank)
    return st.builds(
        ConvPlan,
        name=_names,
        weight=_names,
        operator=_names,
        in_channels=_counts,
        out_channels=_counts,
        groups=_counts,
        kernel_size=size,
        pretrain_kernel_size=size,
        stride=size,
        dilation=size,
        calls=st.lists(_calls(rank), max_size=2).map(tuple),
        transposed=st.booleans(),
    )


def _interfaces(rank: int) -> st.SearchStrategy[InterfacePlan]:
    return st.builds(InterfacePlan, _names, _names, _counts, _counts, _sizes(rank), _sizes(rank))


def _feature_maps(rank: int) -> st.SearchStrategy[FeatureMap]:
    drift = st.floats(allow_nan=False, allow_infinity=False)
    return st.builds(
        FeatureMap, _names, _names, _sizes(rank), _sizes(rank), st.tuples(*(drift,) * rank)
    )


def _state_map(key: str, kind: Any, pretrain_view: Size, target_view: Size, flat: bool) -> StateMap:
    shapes = [(prod(v),) if flat else v for v in (pretrain_view, target_view)]
    return StateMap(key, kind, shapes[0], shapes[1], pretrain_view, target_view)


def _state(rank: int) -> st.SearchStrategy[StateMap]:
    kinds = st.sampled_from(["copy", "kernel", "interface", "feature"])
    return st.builds(_state_map, _names, kinds, _sizes(rank), _sizes(rank), st.booleans())


def _several(strategy: Any) -> Any:
    """Some of them, each with its own number of axes."""
    return st.lists(_ranks.flatmap(strategy), max_size=3).map(tuple)


plans = _ranks.flatmap(
    lambda rank: st.builds(
        ScalePlan,
        model=_names,
        fingerprint=_names,
        target_size=_sizes(rank),
        pretrain_size=_sizes(rank),
        target_size_source=_names,
        kernels=_names,
        convs=_several(_convs),
        interfaces=_several(_interfaces),
        feature_maps=_several(_feature_maps),
        pad_operators=st.lists(_names, max_size=3).map(tuple),
        dense_macs=st.tuples(st.integers(0, 2**60), st.integers(0, 2**60)),
        state=_several(_state),
    )
)


def places(value: Any, path: str = "") -> list[str]:
    """The path of every field in a plan, as messages write it."""
    if is_dataclass(value):
        found = []
        for field in fields(value):
            where = f"{path}.{field.name}" if path else field.name
            found += [where, *places(getattr(value, field.name), where)]
        return found
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return [p for i, item in enumerate(value) for p in places(item, f"{path}[{i}]")]
    return []
