from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxscale import OnnxError, PlanMismatchError
from fxscale.onnx import plan_in, storage, weights_in
from fxscale.onnx.export import exported_program
from fxscale.onnx.storage import read_model, save_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

WEIGHT_BYTES = 4 * (8 * 3 * 5 * 5 + 8)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 8, 5)


@pytest.fixture(scope="module")
def model(network: nn.Module) -> Any:
    images = [torch.zeros(2, 3, 9, 9)]
    return exported_program(network, images, dynamic_batch=False, opset=None).model


def data_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.data"))


def test_weights_stay_inside_up_to_the_limit(model: Any, tmp_path: Path) -> None:
    save_model(model, tmp_path / "net.onnx", largest=WEIGHT_BYTES)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_larger_weights_lie_beside_the_file(network: nn.Module, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save_model(model, path, largest=WEIGHT_BYTES - 1)
    (data,) = data_files(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([path, data])
    assert data.name.startswith("net.onnx.")
    assert data.stat().st_size >= 4 * 8 * 3 * 5 * 5
    assert path.stat().st_size < WEIGHT_BYTES
    onnx.checker.check_model(str(path), full_check=True)
    images = torch.randn(2, 3, 9, 9)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(images).detach())
    assert torch.equal(weights_in(path)["weight"], network.get_parameter("weight").detach())


def test_a_new_file_takes_the_old_ones_place(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    neighbour = tmp_path / "net.onnx.mine.data"
    neighbour.touch()
    save_model(model, path, largest=0)
    (first, _) = data_files(tmp_path)
    save_model(model, path, largest=0)
    assert not first.exists()
    assert len(data_files(tmp_path)) == 2
    save_model(model, path)
    assert data_files(tmp_path) == [neighbour]


@pytest.mark.parametrize("largest", [0, WEIGHT_BYTES])
def test_nothing_is_left_behind_when_writing_fails(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    path = tmp_path / "net.onnx"
    save_model(model, path, largest=largest)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def full(model: Any, target: Path, **options: Any) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(storage, "_save", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, path, largest=largest)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_nothing_is_left_behind_when_the_last_step_fails(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = storage.os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target).name == "net.onnx":
            raise OSError(5, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(storage.os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"):
        save_model(model, tmp_path / "net.onnx", largest=0)
    assert list(tmp_path.iterdir()) == []


def test_an_absent_folder_is_told(model: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        save_model(model, tmp_path / "none" / "net.onnx")


def test_files_that_are_no_networks_are_told(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save_model(model, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OnnxError, match="is not a whole ONNX file"):
        read_model(path)
    path.write_bytes(b"")
    with pytest.raises(OnnxError, match="holds no network"):
        read_model(path)
    with pytest.raises(FileNotFoundError):
        read_model(tmp_path / "absent.onnx")


def test_missing_weights_are_told(model: Any, tmp_path: Path) -> None:
    save_model(model, tmp_path / "net.onnx", largest=0)
    data_files(tmp_path)[0].unlink()
    with pytest.raises(OnnxError, match="is not a whole ONNX file"):
        weights_in(tmp_path / "net.onnx")


def test_a_corrupt_plan_is_told_with_its_file(model: Any, tmp_path: Path) -> None:
    save_model(model, tmp_path / "net.onnx")
    damaged = onnx.load(tmp_path / "net.onnx")
    damaged.metadata_props.add(key=storage.PLAN_KEY, value='{"version": 1')
    onnx.save(damaged, tmp_path / "net.onnx")
    with pytest.raises(PlanMismatchError, match=r"the plan in .*net.onnx"):
        plan_in(tmp_path / "net.onnx")
