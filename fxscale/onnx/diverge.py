"""Where a file first computes something else than torch: intermediate results, side by side.

The exporter names the values of a file after the nodes of the graph that it translated. Exporting
the module once more gives that graph again, and both can be run with all results kept.
"""

from __future__ import annotations

from ast import literal_eval
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from fxscale.onnx.compare import difference, tolerance_of
from fxscale.onnx.export import exported_program
from fxscale.onnx.feeds import Feed, Input
from fxscale.onnx.reference import device_of, full_precision
from fxscale.onnx.report import Divergence, OutputError
from fxscale.onnx.runtime import open_session, run_session

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

_SCOPES = "pkg.torch.onnx.name_scopes"
_BATCH = 2


def first_divergence(
    path: Path,
    model: onnx.ModelProto,
    network: nn.Module,
    inputs: tuple[Input, ...],
    feed: Feed,
    wrong: OutputError,
) -> Divergence | None:
    """The first value of the file, in the order of its graph, that is not torch's on `feed`.

    `wrong` is an output that differs there. `None` if every single one is: then the runtime's
    fusion of operators is at fault, which keeping all results prevents; or if the file was not
    written by this exporter, so that no names match.
    """
    provider, tolerance = wrong.provider, wrong.tolerance
    expected = _torch_values(model, network, inputs, feed)
    nodes = {name: node for node in model.graph.node for name in node.output if name in expected}
    found = _onnx_values(path, model, list(nodes), feed, provider)
    for name, node in nodes.items():
        _, relative, _ = difference(found[name], expected[name])
        if relative is None or relative > max(tolerance, tolerance_of(expected[name].dtype)):
            return Divergence(_layer(node), node.op_type, name, relative)
    return None


def _torch_values(
    model: onnx.ModelProto, network: nn.Module, inputs: tuple[Input, ...], feed: Feed
) -> dict[str, Tensor]:
    device = device_of(network)
    examples = [
        torch.zeros([n or _BATCH for n in each.shape], dtype=each.dtype, device=device)
        for each in inputs
    ]
    program = exported_program(
        network,
        examples,
        dynamic_batch=any(None in each.shape for each in inputs),
        opset=next(opset.version for opset in model.opset_import if not opset.domain),
    ).exported_program
    if program is None:
        return {}
    recorder = _Recorder(program.graph_module)
    with torch.no_grad(), full_precision():
        recorder.run(*_lifted(program), *(tensor.to(device) for tensor in feed.tensors))
    return recorder.values


def _lifted(program: ExportedProgram) -> list[Any]:
    """The parameters, buffers and constants, which an exported graph takes before its inputs."""
    specs = program.graph_signature.input_specs
    named = {**program.constants, **program.state_dict}
    return [named[s.target] for s in specs if s.kind != InputKind.USER_INPUT and s.target]


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each node returned, on the CPU."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op == "call_function":
            # A copy: the next node may work in place.
            self.values[n.name] = result.detach().cpu().clone()
        return result


def _onnx_values(
    path: Path, model: onnx.ModelProto, names: list[str], feed: Feed, provider: str
) -> dict[str, Tensor]:
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    already = {value.name for value in model.graph.output}
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in already
    )
    session = open_session(watched.SerializeToString(), provider, folder=path.parent.resolve())
    return dict(zip(names, run_session(session, feed, names), strict=True)) if names else {}


def _layer(node: onnx.NodeProto) -> str:
    """The path of the module that a node was translated from: all its scopes but its own name."""
    scopes = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES, "[]")
    path = literal_eval(scopes)[:-1]
    return str(path[-1]) if path else ""
