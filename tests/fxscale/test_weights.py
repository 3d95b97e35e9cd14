from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fxscale.errors import PlanMismatchError, StateMismatchError
from fxscale.weights import load_scaled_weights, load_weights, save_weights
from tests.fxscale.plan_samples import overfeat_fast


def _state() -> dict[str, torch.Tensor]:
    return {
        "kernel": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(7).half(),
        "steps": torch.tensor(3),
    }


def test_round_trip_with_a_plan(tmp_path: Path) -> None:
    path, state = tmp_path / "w.safetensors", _state()
    save_weights(path, state, overfeat_fast())
    found, plan = load_scaled_weights(path)
    assert plan == overfeat_fast()
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def test_other_programs_read_the_same_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", _state(), overfeat_fast())
    assert load_file(tmp_path / "w.safetensors").keys() == _state().keys()


def test_shared_and_sliced_memory_is_written_entry_by_entry(tmp_path: Path) -> None:
    embedding, decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    decoder.weight = embedding.weight
    state = nn.Sequential(embedding, decoder).state_dict()
    state["slice"] = torch.arange(10.0)[2:5]
    save_weights(tmp_path / "w.safetensors", state)
    found, plan = load_weights(tmp_path / "w.safetensors")
    assert plan is None
    assert torch.equal(found["0.weight"], found["1.weight"])
    assert torch.equal(found["slice"], torch.tensor([2.0, 3.0, 4.0]))


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_told(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, _state())
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(StateMismatchError, match=r"is not a whole safetensors file: .* truncated"):
        load_weights(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(_state(), path)
    with pytest.raises(StateMismatchError, match="of another format"):
        load_weights(path)


def test_a_file_without_a_plan_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, _state())
    with pytest.raises(PlanMismatchError, match=r"w\.safetensors carries no plan"):
        load_scaled_weights(path)


@pytest.mark.parametrize("value", [3, torch.empty(2, device="meta")])
def test_only_tensors_with_data_are_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(StateMismatchError, match="x: expected a tensor with data, found"):
        save_weights(tmp_path / "w.safetensors", {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_an_absent_file_is_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.safetensors")
