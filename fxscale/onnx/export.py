"""`export_onnx`: a network as an ONNX file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxscale.errors import OnnxError, PlanMismatchError
from fxscale.fingerprint import fingerprint
from fxscale.onnx.network import in_eval_mode, plain
from fxscale.onnx.packages import require
from fxscale.onnx.pools import count_windows_as_torch
from fxscale.onnx.storage import PLAN_KEY, save_model
from fxscale.passes.inputs import (
    check_rank,
    find_convolution,
    first_convolution,
    image_channels,
)
from fxscale.plan import ScalePlan
from fxscale.pretrain_network import PretrainNetwork
from fxscale.target_size import infer_target_size
from fxscale.wrappers import unwrap

if TYPE_CHECKING:
    from onnxscript import ir
    from torch.onnx import ONNXProgram

_BATCH = 2  # the exporter takes a length of 1 for a constant
_PATHS_OF_THIS_MACHINE = "pkg.torch.onnx.stack_trace"


def export_onnx(
    module: nn.Module,
    path: str | Path,
    *,
    input_size: int | Sequence[int] | None = None,
    dynamic_batch: bool = True,
    opset: int | None = None,
    plan: ScalePlan | None = None,
    example_inputs: Sequence[Tensor] | None = None,
) -> None:
    """Write a network as an ONNX file: the pre-train network, or the target after the transition.

    The file holds what the network computes in eval mode. Its initialisers are the parameters and
    buffers that this takes, under their own names with their own values: BatchNorm is not fused
    into convolutions (runtimes do that when they load a file), and what eval mode does not use
    (`num_batches_tracked`, auxiliary heads) is not there. Weights of more than 2 GB go to a file of
    their own beside it, `<name>.<random>.data`. Nothing half-written is left behind on failure.

    **Arguments:**

    - `module`: on any device, in either mode, wrapped by `DistributedDataParallel` or
      `torch.compile` or not; not changed. float32 or float16.
    - `path`: the file to write.
    - `input_size`: pixels of the image, one int, or one per spatial axis. Default: the plan's size
      for this network, else the one that the model tells (as for `fxscale.downscale`).
    - `dynamic_batch`: any batch size at run time; otherwise that of `example_inputs`, 2 without.
    - `opset`: version of the ONNX operators. Default: the one that torch recommends.
    - `plan`: for a target network, the plan of its pre-train network, to be stored in the file. A
      pre-train network's own plan is always stored; `fxscale.onnx.plan_in` reads it.
    - `example_inputs`: the tensors that `module.forward` takes, for networks that take more than
      one image `(N, C, *size)`; only shapes and dtypes are read.

    **Raises:**

    - `OnnxError`: packages are missing, or the exporter cannot express the network, with its words.
    - `SizeError`: an impossible input size.
    - `PlanMismatchError`: the plan is another network's.
    - `OSError`: the file cannot be written.
    """
    require("onnx", "onnxscript")
    network = unwrap(module)
    plan = _plan_for(network, plan)
    if example_inputs is None:
        example_inputs = (_example_image(network, input_size, plan),)
    elif input_size is not None:
        raise OnnxError("input_size together with example_inputs: the examples tell their size")
    program = exported_program(network, example_inputs, dynamic_batch=dynamic_batch, opset=opset)
    model = program.model
    if plan is not None:
        model.metadata_props[PLAN_KEY] = plan.to_json()
    _simplify(model, keep=frozenset(network.state_dict()))
    count_windows_as_torch(model)
    save_model(model, Path(path))


def exported_program(
    network: nn.Module, inputs: Sequence[Tensor], *, dynamic_batch: bool, opset: int | None
) -> ONNXProgram:
    """torch's exporter, or `OnnxError` with what it said. Operators stand one for one."""
    batch = {0: torch.export.Dim("batch")} if dynamic_batch else None
    shapes = _argument_shapes(network, inputs, batch)
    try:
        with in_eval_mode(network), warnings.catch_warnings():
            # The exporter's own: about torch's insides, nothing that a caller could act on.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                plain(network).eval(),
                tuple(inputs),
                dynamo=True,
                dynamic_shapes=shapes,
                opset_version=opset,
                optimize=False,  # would fuse BatchNorm and lose parameters
                verbose=False,
            )
    except Exception as error:  # every exporter pass raises its own kind
        raise OnnxError(
            f"torch.onnx cannot export {type(network).__name__}: {_root_of(error)}{_hint(batch)}"
        ) from error
    if program is None:
        raise OnnxError(f"torch.onnx exported nothing for {type(network).__name__}")
    return program


def _argument_shapes(
    network: nn.Module, inputs: Sequence[Tensor], batch: dict[int, Any] | None
) -> tuple[Any, ...] | None:
    if batch is None:
        return None
    not_tensors = [type(value).__name__ for value in inputs if not isinstance(value, Tensor)]
    if not_tensors:
        raise OnnxError(f"example_inputs must be tensors, found {not_tensors[0]}")
    return tuple(batch if value.ndim else None for value in inputs)


def _plan_for(network: nn.Module, plan: ScalePlan | None) -> ScalePlan | None:
    if isinstance(network, PretrainNetwork):
        if plan is not None and plan != network.plan:
            raise PlanMismatchError(
                f"plan is another one than the pre-train network's own ({network.plan.model}); "
                "leave it out"
            )
        return network.plan
    if plan is not None and plan.fingerprint != (found := fingerprint(network.state_dict())):
        raise PlanMismatchError(
            f"the plan was made for another network: expected fingerprint {plan.fingerprint} "
            f"({plan.model}), found {found} ({type(network).__name__})"
        )
    return plan


def _example_image(
    network: nn.Module, input_size: int | Sequence[int] | None, plan: ScalePlan | None
) -> Tensor:
    conv = find_convolution(network)
    if conv is None and plan is not None:  # it convolves by functions, which the plan has seen
        rank, channels = len(plan.target_size), plan.convs[0].in_channels
    else:
        conv = first_convolution(network)
        rank, channels = len(conv.kernel_size), image_channels(network, conv)
    if input_size is not None:
        given = input_size if isinstance(input_size, int) else tuple(input_size)
        size = check_rank(given, rank, "input_size")
    elif plan is not None:
        is_small = isinstance(network, PretrainNetwork)
        size = plan.pretrain_size if is_small else plan.target_size
    else:
        size, _ = infer_target_size(network)
    weight = next((network if conv is None else conv).parameters())
    shape = (_BATCH, channels, *size)
    return torch.zeros(shape, dtype=weight.dtype, device=weight.device)


def _simplify(model: ir.Model, keep: frozenset[str]) -> None:
    """Fold what is constant, but for the entries of the state in `keep`; drop what is left over."""
    from onnxscript import optimizer

    def should_fold(node: ir.Node) -> bool | None:
        names = {value.name for value in node.inputs if value is not None}
        return False if names & keep and node.op_type != "Shape" else None

    optimizer.fold_constants(model, should_fold=should_fold)
    optimizer.remove_unused_nodes(model)
    for node in model.graph:
        node.metadata_props.pop(_PATHS_OF_THIS_MACHINE, None)


def _root_of(error: BaseException) -> str:
    """The first line of what started it: the exporter wraps errors several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _hint(batch: object) -> str:
    return "" if batch is None else ". Where the batch size is at fault, try dynamic_batch=False"
