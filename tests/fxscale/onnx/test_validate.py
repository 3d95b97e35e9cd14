from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxscale
from fxscale import OnnxError, OnnxReport, export_onnx, validate_onnx
from fxscale.onnx import feeds as feeds_module
from fxscale.onnx import validate as validate_module
from fxscale.onnx.runtime import CPU
from tests.fxscale.onnx.networks import UNet, settle

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Net(nn.Module):
    """Two convolutions, BatchNorm, a function between them, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        logits: Tensor = self.head(self.block(x).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return settle(Net()).train()


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(network, path, input_size=16)
    return path


def changed(exported: Path, folder: Path, change: Callable[[Any], object]) -> Path:
    """A copy of the file with `change(model)` made to it."""
    model = onnx.load(exported)
    change(model)
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def node_of(model: Any, operator: str, index: int = 0) -> Any:
    return [node for node in model.graph.node if node.op_type == operator][index]


def test_a_right_file_is_equal(network: nn.Module, exported: Path) -> None:
    pytest.importorskip("sklearn")
    report = validate_onnx(exported, network)
    assert report.equal
    assert isinstance(report, OnnxReport)
    assert [(e.batch, e.batch_size) for e in report.errors] == [
        ("real", 8),
        ("random", 1),
        ("random", 2),
        ("random", 7),
    ]
    assert all(e.top1 == 1 and e.dtype == "float32" for e in report.errors)
    (run,) = report.runs
    assert (run.requested, run.used) == (CPU, (CPU,))
    assert run.seconds is not None
    assert run.seconds > 0
    assert report.torch_seconds > 0
    assert (report.divergence, report.faults, report.notes) == (None, (), ())
    assert network.training


def test_a_wrong_weight_is_located(network: nn.Module, exported: Path, tmp_path: Path) -> None:
    def scale(model: Any) -> None:
        (bias,) = [t for t in model.graph.initializer if t.name == "block.0.bias"]
        values = onnx.numpy_helper.to_array(bias) + 1
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))

    report = validate_onnx(changed(exported, tmp_path, scale), network)
    assert not report.equal
    assert report.divergence is not None
    assert (report.divergence.layer, report.divergence.operator) == ("block.0", "Conv")
    assert "first diverges: Conv of layer 'block.0'" in str(report)
    assert network.training


def test_a_wrong_operator_is_located(network: nn.Module, exported: Path, tmp_path: Path) -> None:
    def swap(model: Any) -> None:
        node_of(model, "Relu").op_type = "Abs"

    report = validate_onnx(changed(exported, tmp_path, swap), network)
    assert report.divergence is not None
    assert (report.divergence.layer, report.divergence.operator) == ("", "Abs")


def test_a_wrong_epsilon_is_seen(network: nn.Module, exported: Path, tmp_path: Path) -> None:
    def widen(model: Any) -> None:
        node = node_of(model, "BatchNormalization")
        (epsilon,) = [a for a in node.attribute if a.name == "epsilon"]
        assert epsilon.f == pytest.approx(1e-5)
        epsilon.f = 1e-3

    report = validate_onnx(changed(exported, tmp_path, widen), network)
    assert report.divergence is not None
    assert report.divergence.layer == "norm"
    note, rounding = report.notes
    wrong = next(error for error in report.errors if not error.equal)
    # The file itself is wrong: as far off with no operator fused, and no matter of rounding.
    assert note == f"relative error without the runtime's graph optimizations: {wrong.relative:.1e}"
    assert rounding.startswith("relative error that rounding alone makes in torch")
    assert 0 < float(rounding.rpartition(": ")[2]) < 1e-5


def test_files_from_elsewhere_are_compared_though_not_located(
    network: nn.Module, exported: Path, tmp_path: Path
) -> None:
    def rename_and_break(model: Any) -> None:
        names = {name: f"v_{name}" for node in model.graph.node for name in node.output}
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names[name] for name in node.output]
        for value in model.graph.output:
            value.name = names[value.name]
        del model.graph.value_info[:]
        node_of(model, "Relu").op_type = "Abs"

    report = validate_onnx(changed(exported, tmp_path, rename_and_break), network)
    assert not report.equal
    assert report.divergence is None
    assert any("every operator that could be compared" in note for note in report.notes)


def test_a_file_against_the_standard_is_a_fault(
    network: nn.Module, exported: Path, tmp_path: Path
) -> None:
    def lie_about_the_shape(model: Any) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6

    report = validate_onnx(changed(exported, tmp_path, lie_about_the_shape), network)
    assert not report.equal
    checker, inference = report.faults
    assert checker.startswith("onnx.checker: ")
    assert inference.startswith("shape inference: ")
    assert f"invalid: {checker}" in str(report)


def test_what_onnxruntime_cannot_run_is_told(
    network: nn.Module, exported: Path, tmp_path: Path
) -> None:
    def unknown(model: Any) -> None:
        node_of(model, "Relu").op_type = "Rectify"

    report = validate_onnx(changed(exported, tmp_path, unknown), network)
    assert not report.equal
    assert report.errors == ()
    assert report.runs[0].error is not None
    assert "Rectify" in report.runs[0].error
    assert "did not run" in str(report)


def test_batches_of_a_loader(network: nn.Module, exported: Path) -> None:
    images = torch.randn(3, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    batches = [(images, torch.zeros(3)), images[:1]]
    report = validate_onnx(exported, network, batches=batches, providers=[CPU])
    assert report.equal
    assert [e.batch_size for e in report.errors if e.batch == "real"] == [3, 1]


def test_batches_that_do_not_fit_are_refused(network: nn.Module, exported: Path) -> None:
    message = (
        r"batch 0: input 'x' of the file takes torch.float32 of shape \(N, 3, 16, 16\), found "
    )
    for images in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16).double(), torch.zeros(3)):
        with pytest.raises(OnnxError, match=message):
            validate_onnx(exported, network, batches=[images])
    with pytest.raises(OnnxError, match=r"batch 0: expected 1 tensors.* found str"):
        validate_onnx(exported, network, batches=["images"])


def test_another_network_is_refused_or_told(
    network: nn.Module, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError, match="Linear does not run on the file's inputs"):
        validate_onnx(exported, nn.Linear(3, 4))
    report = validate_onnx(exported, UNet())
    assert not report.equal
    assert report.errors[0].fault == "found float32 (8, 5), torch has float32 (8, 4, 16, 16)"

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(OnnxError, match="has 1 outputs, and the module returns 2"):
        validate_onnx(exported, Twice())


def test_a_fixed_batch_size_is_kept(network: nn.Module, tmp_path: Path) -> None:
    export_onnx(network, tmp_path / "two.onnx", input_size=16, dynamic_batch=False)
    report = validate_onnx(tmp_path / "two.onnx", network)
    assert report.equal
    assert {e.batch_size for e in report.errors} == {2}


def test_a_batch_taken_for_a_constant_is_seen(
    network: nn.Module, exported: Path, tmp_path: Path
) -> None:
    """A file that claims to take any batch and returns two samples whatever it gets."""

    def two_samples(model: Any) -> None:
        output = model.graph.output[0].name
        node = next(node for node in model.graph.node if output in node.output)
        node.output[0] = "all"
        for name, value in (("starts", 0), ("ends", 2), ("axes", 0)):
            tensor = onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value])
            model.graph.initializer.append(tensor)
        names = ["all", "starts", "ends", "axes"]
        model.graph.node.append(onnx.helper.make_node("Slice", names, [output]))

    report = validate_onnx(changed(exported, tmp_path, two_samples), network)
    right = {e.batch_size: e.equal for e in report.errors}
    assert right == {8: False, 1: True, 2: True, 7: False}


def test_half_precision(network: nn.Module, tmp_path: Path) -> None:
    half = settle(Net()).half()
    export_onnx(half, tmp_path / "half.onnx", input_size=16)
    report = validate_onnx(tmp_path / "half.onnx", half)
    assert report.equal
    assert {(e.dtype, e.tolerance) for e in report.errors} == {("float16", 5e-3)}


def test_a_network_that_amplifies_rounding_gets_the_tolerance_it_needs(tmp_path: Path) -> None:
    class Amplifying(nn.Module):
        """Leaves a hundredth of a sum, which the two sides round differently."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 64, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x) + 100).mean((2, 3)) - 100

    network = Amplifying()
    export_onnx(network, tmp_path / "net.onnx", input_size=32)
    report = validate_onnx(tmp_path / "net.onnx", network)
    assert report.equal, str(report)
    wide = [error for error in report.errors if error.relative and error.relative > 1e-5]
    assert wide
    assert all(1e-5 < error.tolerance <= 1e-3 for error in wide)


def test_bfloat16_is_refused_with_a_remedy(tmp_path: Path) -> None:
    brain = Net().bfloat16()
    export_onnx(brain, tmp_path / "brain.onnx", input_size=16)
    with pytest.raises(OnnxError, match="export the network as float32 or float16"):
        validate_onnx(tmp_path / "brain.onnx", brain)


def test_weights_beside_the_file_are_found(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fxscale.onnx import export as export_module
    from fxscale.onnx.storage import save_model

    def save_apart(model: Any, path: Path) -> None:
        save_model(model, path, largest=0)

    monkeypatch.setattr(export_module, "save_model", save_apart)
    export_onnx(network, tmp_path / "net.onnx", input_size=16)
    assert len(list(tmp_path.glob("*.data"))) == 1
    monkeypatch.chdir(tmp_path)  # the folder must be found from a bare file name, too
    assert validate_onnx("net.onnx", network).equal
    state = {key: value.clone() for key, value in network.state_dict().items()}
    other = Net()
    other.load_state_dict(state | {"block.0.bias": state["block.0.bias"] + 1})
    report = validate_onnx("net.onnx", other)
    assert report.divergence is not None
    assert report.divergence.layer == "block.0"


def test_without_scikit_learn_the_report_says_so(
    network: nn.Module, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds_module, "find_spec", lambda name: None)
    report = validate_onnx(exported, network)
    assert {e.batch for e in report.errors} == {"random"}
    assert report.notes == ("no real images at hand (pass batches): random ones alone",)


def test_a_runtime_that_fuses_wrongly_is_told_apart(
    network: nn.Module, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap(model: Any) -> None:
        node_of(model, "Relu").op_type = "Abs"

    wrong, opened = changed(exported, tmp_path, swap), validate_module.open_session

    def open_wrongly(path: Path, provider: str, *, optimized: bool = True) -> Any:
        return opened(wrong if optimized else path, provider)

    monkeypatch.setattr(validate_module, "open_session", open_wrongly)
    report = validate_onnx(exported, network)
    assert not report.equal
    (note,) = (n for n in report.notes if n.startswith("relative error without the runtime's"))
    assert float(note.rpartition(": ")[2]) < 1e-5


def test_a_failing_search_leaves_the_report(
    network: nn.Module, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no memory\nat all")

    def swap(model: Any) -> None:
        node_of(model, "Relu").op_type = "Abs"

    monkeypatch.setattr(validate_module, "first_divergence", broken)
    report = validate_onnx(changed(exported, tmp_path, swap), network)
    assert not report.equal
    assert report.notes[-1:] == ("the layer at fault was not found: no memory",)


def test_one_and_three_dimensions(tmp_path: Path) -> None:
    for rank, conv in ((1, nn.Conv1d), (3, nn.Conv3d)):
        target = nn.Sequential(conv(2, 4, 5, padding=2), nn.ReLU(), conv(4, 3, 3))
        small = fxscale.downscale(target, 8, target_size=12)
        export_onnx(small, tmp_path / f"{rank}.onnx")
        report = validate_onnx(tmp_path / f"{rank}.onnx", small)
        assert report.equal, rank
        assert "no real images" in report.notes[0]


def test_report_as_data(network: nn.Module, exported: Path) -> None:
    report = validate_onnx(exported, network)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["equal"] is True
    assert data["errors"][0]["relative"] == report.errors[0].relative
    assert data["runs"][0]["used"] == [CPU]
