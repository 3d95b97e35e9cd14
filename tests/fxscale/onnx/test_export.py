from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale import OnnxError, PlanMismatchError, ScalePlan, SizeError, UnsupportedModelError
from fxscale.onnx import export_onnx, plan_in, weights_in
from fxscale.onnx import packages as packages_module
from fxscale.training import SmallResNet
from tests.fxscale.onnx.networks import TwoModes, settle

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run(path: Path, images: Tensor) -> Tensor:
    """The file's first output, computed by onnxruntime, called without fxscale."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [each.name for each in session.get_inputs()]
    return torch.from_numpy(session.run(None, {name: images.numpy()})[0])


@pytest.fixture(scope="module")
def small() -> fxscale.PretrainNetwork:
    torch.manual_seed(0)
    network = fxscale.downscale(SmallResNet(3, 5, widths=(8, 16), interface=16), 44, target_size=64)
    settle(network)
    return network


@pytest.fixture(scope="module")
def file(small: fxscale.PretrainNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export_onnx(small, path)
    return path


def test_computes_what_the_pretrain_network_does(
    small: fxscale.PretrainNetwork, file: Path
) -> None:
    images = torch.randn(3, 3, 44, 44)
    expected = small.eval()(images).detach()
    torch.testing.assert_close(run(file, images), expected, rtol=1e-4, atol=1e-5)


def test_initialisers_are_the_parameters_and_buffers(
    small: fxscale.PretrainNetwork, file: Path
) -> None:
    stored = weights_in(file)
    used = {k: v for k, v in small.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert used.keys() <= stored.keys()
    for key, value in used.items():
        assert torch.equal(stored[key], value), key


def test_the_plan_travels_in_the_metadata(small: fxscale.PretrainNetwork, file: Path) -> None:
    assert plan_in(file) == small.plan
    (entry,) = onnx.load(file).metadata_props
    assert entry.key == "fxscale_plan"
    assert json.loads(entry.value) == json.loads(small.plan.to_json())


def test_weights_in_the_file_go_back_to_the_target(
    small: fxscale.PretrainNetwork, file: Path
) -> None:
    stored = weights_in(file)
    state = {key: stored.get(key, value) for key, value in small.state_dict().items()}
    plan = plan_in(file)
    assert plan is not None
    expected = fxscale.upscale_state(small)
    for key, value in fxscale.upscale_state(plan, state).items():
        assert torch.equal(value, expected[key]), key


def test_batch_size_is_free_unless_fixed(
    small: fxscale.PretrainNetwork, file: Path, tmp_path: Path
) -> None:
    def shape(path: Path) -> list[int | str]:
        dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
        return [d.dim_param or d.dim_value for d in dims]

    assert shape(file) == ["batch", 3, 44, 44]
    export_onnx(small, tmp_path / "fixed.onnx", dynamic_batch=False)
    assert shape(tmp_path / "fixed.onnx") == [2, 3, 44, 44]


def test_opset_is_the_one_asked_for(small: fxscale.PretrainNetwork, tmp_path: Path) -> None:
    export_onnx(small, tmp_path / "small.onnx", opset=18)
    versions = {o.domain: o.version for o in onnx.load(tmp_path / "small.onnx").opset_import}
    assert versions[""] == 18


def test_eval_graph_is_exported_and_the_mode_restored(tmp_path: Path) -> None:
    target = TwoModes()
    settle(target)
    small = fxscale.downscale(target, 16, target_size=24).train()
    small.norm.eval()
    modes = {name: module.training for name, module in small.named_modules()}
    export_onnx(small, tmp_path / "small.onnx")
    assert {name: module.training for name, module in small.named_modules()} == modes
    assert len(onnx.load(tmp_path / "small.onnx").graph.output) == 1
    images = torch.randn(4, 3, 16, 16)
    expected = small.eval()(images).detach()
    torch.testing.assert_close(run(tmp_path / "small.onnx", images), expected)


def test_target_at_its_own_size_with_the_plan_it_came_from(
    small: fxscale.PretrainNetwork, tmp_path: Path
) -> None:
    target = SmallResNet(3, 5, widths=(8, 16), interface=16)
    target.load_state_dict(fxscale.upscale_state(small))
    path = tmp_path / "full.onnx"
    export_onnx(target, path, plan=small.plan)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        run(path, images), target.eval()(images).detach(), rtol=1e-4, atol=1e-5
    )
    assert plan_in(path) == small.plan


def test_target_without_a_plan_has_none_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "full.onnx"
    # Without a size, the smallest that the fully connected interface takes: 13 > 7 > 4.
    export_onnx(SmallResNet(3, 5, widths=(8, 16), interface=4), path)
    assert plan_in(path) is None
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims[2:]] == [13, 13]


class Folded(nn.Module):
    """Reads blocks of 2x2 pixels as channels, as TResNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.in_chans = 3
        self.conv = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pixel_unshuffle(x, 2)).mean((2, 3))


def test_images_have_the_channels_that_the_network_reads(tmp_path: Path) -> None:
    """Not those of its first convolution, where space to depth stands before it."""
    for network, size in ((Folded(), 16), (fxscale.downscale(Folded(), 12, target_size=16), 12)):
        path = tmp_path / f"{size}.onnx"
        export_onnx(network, path, input_size=size)
        images = torch.randn(2, 3, size, size)
        expected = network.eval()(images).detach()
        torch.testing.assert_close(run(path, images), expected)


class Functional(nn.Module):
    """Convolves with a weight of its own, without a layer of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, padding=1).mean((2, 3))


def test_the_plan_knows_the_images_where_no_layer_does(tmp_path: Path) -> None:
    target = Functional()
    small = fxscale.downscale(target, 8, example_inputs=(torch.zeros(2, 5, 12, 12),))
    for network, size in ((small, 8), (target, 12)):
        path = tmp_path / f"{size}.onnx"
        export_onnx(network, path, plan=small.plan)
        images = torch.randn(3, 5, size, size)
        torch.testing.assert_close(run(path, images), network(images).detach())
    with pytest.raises(UnsupportedModelError, match="no convolution layer"):
        export_onnx(target, tmp_path / "target.onnx")


def test_half_precision_stays(tmp_path: Path) -> None:
    small = fxscale.downscale(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()), 9, target_size=13)
    export_onnx(small.half(), tmp_path / "half.onnx")
    output = run(tmp_path / "half.onnx", torch.randn(2, 3, 9, 9).half())
    assert output.dtype == torch.float16
    assert weights_in(tmp_path / "half.onnx")["0.weight"].dtype == torch.float16


def test_channels_last_weights_keep_their_values(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()).to(memory_format=torch.channels_last)
    export_onnx(network, tmp_path / "last.onnx", input_size=9)
    weight = weights_in(tmp_path / "last.onnx")["0.weight"]
    assert torch.equal(weight, network.get_parameter("0.weight").detach())


def test_several_inputs_by_example(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, image: Tensor, other: Tensor) -> dict[str, Tensor]:
            return {"sum": self.conv(image) + other, "other": -other}

    examples = (torch.zeros(3, 1, 6, 6), torch.zeros(3, 2, 4, 4))
    export_onnx(Sum(), tmp_path / "sum.onnx", example_inputs=examples)
    graph = onnx.load(tmp_path / "sum.onnx").graph
    assert [value.name for value in graph.input] == ["image", "other"]
    assert len(graph.output) == 2
    with pytest.raises(OnnxError, match="input_size together with example_inputs"):
        export_onnx(Sum(), tmp_path / "no.onnx", input_size=6, example_inputs=examples)
    with pytest.raises(OnnxError, match="example_inputs must be tensors, found int"):
        export_onnx(Sum(), tmp_path / "no.onnx", example_inputs=[3])
    assert not (tmp_path / "no.onnx").exists()


def test_no_path_of_this_machine_is_in_the_file(file: Path) -> None:
    content = file.read_bytes()
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    assert str(Path(spec.origin).parent).encode() not in content
    assert b"stack_trace" not in content


class Untranslatable(nn.Module):
    """Its control flow depends on values, which no exporter can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if y.sum() > 0 else -y


def test_what_the_exporter_cannot_do_is_told_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the file before")
    network = Untranslatable().train()
    with pytest.raises(OnnxError, match=r"torch.onnx cannot export Untranslatable: \w+: "):
        export_onnx(network, path, input_size=8)
    assert path.read_bytes() == b"the file before"
    assert list(tmp_path.iterdir()) == [path]
    assert network.training
    assert network.conv.training


def test_another_networks_plan_is_refused(small: fxscale.PretrainNetwork, tmp_path: Path) -> None:
    other: ScalePlan = fxscale.downscale(nn.Conv2d(3, 4, 3), 8, target_size=12).plan
    with pytest.raises(PlanMismatchError, match="made for another network"):
        export_onnx(SmallResNet(3, 5, widths=(8, 16)), tmp_path / "n.onnx", plan=other)
    with pytest.raises(PlanMismatchError, match="another one than the pre-train network's own"):
        export_onnx(small, tmp_path / "n.onnx", plan=other)


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    for size in (0, (8, 8, 8)):
        with pytest.raises(SizeError, match="input_size"):
            export_onnx(nn.Conv2d(3, 4, 3), tmp_path / "n.onnx", input_size=size)


def test_missing_packages_are_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages_module, "find_spec", lambda name: None)
    message = r"onnx and onnxscript are not installed; .*: pip install 'fxscale\[onnx\]'"
    with pytest.raises(OnnxError, match=message):
        export_onnx(nn.Conv2d(3, 4, 3), tmp_path / "n.onnx", input_size=8)
    with pytest.raises(OnnxError, match="onnx and onnxruntime are not installed"):
        fxscale.validate_onnx(tmp_path / "n.onnx", nn.Conv2d(3, 4, 3))


def test_state_is_not_changed(small: fxscale.PretrainNetwork, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in small.state_dict().items()}
    export_onnx(small, tmp_path / "small.onnx")
    for key, value in small.state_dict().items():
        assert numpy.array_equal(value, before[key]), key
