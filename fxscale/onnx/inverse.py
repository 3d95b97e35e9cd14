"""The map back to the target's weights, a second time: by ONNX operators, in onnxruntime.

Nothing of `fxscale.resample` is used. Along each axis that grows stands one `Resize` in half-pixel
coordinates (borders clamped, as Eq. 5 needs them), then one `Mul` with the gain `product(k' / k)`:
whoever trusts these operators can check `fxscale.upscale_state` against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxscale.errors import OnnxError
from fxscale.onnx.packages import require
from fxscale.plan import ScalePlan, StateMap
from fxscale.resample import DEFAULT_INTERPOLATION, Interpolation
from fxscale.upscale import check_state, plan_of
from fxscale.wrappers import unwrap

if TYPE_CHECKING:
    import onnx

_OPSET, _IR_VERSION = 18, 8  # the first opset whose Resize fxscale was checked with
_MODE = {"bilinear": "linear", "bicubic": "cubic"}


def upscale_with_onnx(
    pretrain: nn.Module | ScalePlan,
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    interpolation: Interpolation = DEFAULT_INTERPOLATION,
) -> dict[str, Tensor]:
    """`fxscale.upscale_state`, computed by onnxruntime from `inverse_model`.

    Arguments, keys, shapes and dtypes are those of `upscale_state`; the tensors lie on the CPU.
    Everything resized is computed in float32. The two agree to float accuracy: a few units in the
    last place of float32, in relation to the largest weight of the entry.

    **Raises:** what `upscale_state` raises, and `OnnxError` if packages are missing.
    """
    require("onnx", "onnxruntime")
    import onnxruntime

    plan = plan_of(pretrain)
    if state_dict is None and isinstance(pretrain, nn.Module):
        state_dict = unwrap(pretrain).state_dict()
    entries = check_state(plan, state_dict)
    result = {m.key: entries[m.key].detach().cpu().clone() for m in plan.state}
    model = inverse_model(plan, interpolation)
    resized = [m for m in plan.state if _grows(m)]
    if resized:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        feeds = {m.key: result[m.key].float().contiguous().numpy() for m in resized}
        for m, array in zip(resized, session.run(None, feeds), strict=True):
            result[m.key] = torch.from_numpy(array).to(result[m.key].dtype)
    return result


def inverse_model(
    plan: ScalePlan, interpolation: Interpolation = DEFAULT_INTERPOLATION
) -> onnx.ModelProto:
    """The map from every resized entry of the pre-train network's state to the target's.

    Inputs, float32, have the entries' names and pre-train shapes; outputs, in the plan's order, are
    called `<name>/target` and have the target's shapes. Entries that are copied are not in it.

    **Raises:** `OnnxError` for weight norm, spectral norm and weight standardisation with a gain.
    """
    require("onnx")
    from onnx import helper

    normalised = next((m for m in plan.state if m.kind in ("gain", "direction")), None)
    if normalised is not None:
        raise OnnxError(
            f"{normalised.key!r} follows the norm of a kernel, which is no linear map of it: use "
            "fxscale.upscale_state"
        )
    graph = helper.make_graph([], "upscale_state", [], [], [])
    for state_map in filter(_grows, plan.state):
        _add_entry(graph, state_map, interpolation)
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="fxscale"
    )


def _grows(state_map: StateMap) -> bool:
    return state_map.pretrain_view != state_map.target_view


def _add_entry(graph: onnx.GraphProto, state_map: StateMap, interpolation: Interpolation) -> None:
    from onnx import TensorProto, helper

    key = state_map.key
    target = _map(graph, key, state_map, interpolation, prefix=key)
    graph.input.append(
        helper.make_tensor_value_info(key, TensorProto.FLOAT, state_map.pretrain_shape)
    )
    graph.output.append(
        helper.make_tensor_value_info(target, TensorProto.FLOAT, state_map.target_shape)
    )


def _map(
    graph: onnx.GraphProto,
    current: str,
    state_map: StateMap,
    interpolation: Interpolation,
    *,
    prefix: str,
) -> str:
    """Operators that map the value `current`; their names begin with `prefix`. Returns the last."""
    from onnx import TensorProto, helper

    key = prefix

    def apply(operator: str, *inputs: str, name: str, **attributes: Any) -> None:
        nonlocal current
        output = f"{key}/{name}"
        graph.node.append(
            helper.make_node(operator, [current, *inputs], [output], name=output, **attributes)
        )
        current = output

    def constant(name: str, data_type: int, shape: list[int], values: list[float]) -> str:
        tensor = helper.make_tensor(f"{key}/{name}", data_type, shape, values)
        graph.initializer.append(tensor)
        return str(tensor.name)

    def reshape(name: str, shape: tuple[int, ...]) -> None:
        sizes = constant(f"{name}_shape", TensorProto.INT64, [len(shape)], list(shape))
        apply("Reshape", sizes, name=name)

    if state_map.parts:
        axis = state_map.parts_axis
        reshape("parts", state_map.pretrain_view)
        names = [f"{key}/part_{i}" for i in range(len(state_map.parts))]
        pieces = [part.pretrain_shape[axis] for part in state_map.parts]
        sizes = constant("part_sizes", TensorProto.INT64, [len(pieces)], list(pieces))
        graph.node.append(helper.make_node("Split", [current, sizes], names, axis=axis))
        mapped = [
            _map(graph, name, part, interpolation, prefix=name)
            for name, part in zip(names, state_map.parts, strict=True)
        ]
        current = f"{key}/joined"
        graph.node.append(helper.make_node("Concat", mapped, [current], axis=axis))
        reshape("target", state_map.target_shape)
        return current
    # Cubic overshoot could turn a running variance negative.
    mode = "linear" if state_map.kind == "feature" else _MODE[interpolation]
    lengths = list(state_map.pretrain_view)
    for axis, n_out in enumerate(state_map.target_view):
        n_in = lengths[axis]
        if n_out < n_in:
            raise OnnxError(f"{key!r} shrinks from {n_in} to {n_out} along axis {axis} of its view")
        if n_out == n_in:
            continue
        # Any axis of any rank, seen as the height of images that keep their width: a separable
        # map, one axis at a time, and the one case of Resize that every runtime implements.
        outer, inner = prod(lengths[:axis]), prod(lengths[axis + 1 :])
        reshape(f"axis_{axis}", (outer, 1, n_in, inner))
        sizes = constant(f"sizes_{axis}", TensorProto.INT64, [4], [outer, 1, n_out, inner])
        apply(
            "Resize",
            "",
            "",
            sizes,
            name=f"resized_{axis}",
            mode=mode,
            coordinate_transformation_mode="half_pixel",
            cubic_coeff_a=-0.75,
        )
        lengths[axis] = n_out
    if state_map.kind != "feature":
        gain = prod(state_map.pretrain_view) / prod(state_map.target_view)
        apply("Mul", constant("gain", TensorProto.FLOAT, [], [gain]), name="scaled")
    reshape("target", state_map.target_shape)
    return current
