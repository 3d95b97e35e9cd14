"""The map back to the target's weights, a second time: by ONNX operators, in onnxruntime.

Nothing of `fxscale.resample` is used. Along each axis that grows stands one `Resize` in half-pixel
coordinates (borders clamped, as Eq. 5 needs them), then one `Mul` with the gain `product(k' / k)`:
whoever trusts these operators can check `fxscale.upscale_state` against them. What follows the norm
of a kernel (weight norm, spectral norm) is multiplied by it, as `ReduceL2` computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fxscale.onnx.inverse_graph import add_entry, add_gain
from fxscale.onnx.packages import require
from fxscale.plan import ScalePlan, StateMap
from fxscale.resample import DEFAULT_INTERPOLATION, Interpolation
from fxscale.upscale import check_state, plan_of, with_versions
from fxscale.wrappers import unwrap

if TYPE_CHECKING:
    import onnx

_OPSET, _IR_VERSION = 18, 8  # the first opset whose Resize fxscale was checked with


def upscale_with_onnx(
    pretrain: nn.Module | ScalePlan,
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    interpolation: Interpolation = DEFAULT_INTERPOLATION,
) -> dict[str, Tensor]:
    """`fxscale.upscale_state`, computed by onnxruntime from `inverse_model`.

    Arguments, keys, shapes and dtypes are those of `upscale_state`; the tensors lie on the CPU.
    Everything that is not copied is computed in float32. The two agree to float accuracy: a few
    units in the last place of float32, in relation to the largest weight of the entry.

    **Raises:** what `upscale_state` raises, and `OnnxError` if packages are missing.
    """
    require("onnx", "onnxruntime")
    import onnxruntime

    plan = plan_of(pretrain)
    reference = None if isinstance(pretrain, ScalePlan) else unwrap(pretrain).state_dict()
    entries = check_state(plan, reference if state_dict is None else state_dict, reference)
    result = {m.key: entries[m.key].detach().cpu().clone() for m in plan.state}
    mapped = _mapped(plan)
    if mapped:
        session = onnxruntime.InferenceSession(
            inverse_model(plan, interpolation).SerializeToString(),
            providers=["CPUExecutionProvider"],
        )
        feeds = {m.key: result[m.key].float().contiguous().numpy() for m in mapped}
        for m, array in zip(mapped, session.run(None, feeds), strict=True):
            result[m.key] = torch.from_numpy(array).to(result[m.key].dtype)
    return with_versions(result, plan)


def inverse_model(
    plan: ScalePlan, interpolation: Interpolation = DEFAULT_INTERPOLATION
) -> onnx.ModelProto:
    """The map from every entry of the pre-train network's state that changes to the target's.

    Inputs, float32, have the entries' names and pre-train shapes; outputs, in the plan's order, are
    called `<name>/target` and have the target's shapes. Entries that are copied are not in it.

    **Raises:** `OnnxError` for an entry that shrinks.
    """
    require("onnx")
    from onnx import TensorProto, helper

    graph = helper.make_graph([], "upscale_state", [], [], [])
    mapped = _mapped(plan)
    names = {m.key: add_entry(graph, m, m.key, interpolation) for m in mapped if m.kind != "gain"}
    kernels = {m.key: m for m in mapped}
    # Gains come behind the kernels of which they need both sizes.
    for m in mapped:
        if m.kind == "gain":
            assert m.of is not None  # every gain is that of a kernel
            names[m.key] = add_gain(graph, m, kernels[m.of], m.of, names[m.of])
    for m in mapped:
        shapes = (
            (graph.input, m.key, m.pretrain_shape),
            (graph.output, names[m.key], m.target_shape),
        )
        for values, name, shape in shapes:
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="fxscale"
    )


def _mapped(plan: ScalePlan) -> list[StateMap]:
    """What is not copied: entries that grow, gains, and the kernels that gains belong to."""
    followed = {m.of for m in plan.state if m.kind == "gain"}
    return [
        m
        for m in plan.state
        if m.kind == "gain" or m.key in followed or m.pretrain_view != m.target_view
    ]
