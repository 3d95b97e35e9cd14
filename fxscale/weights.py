"""Weights files: a state dict as safetensors, with its plan in the file's metadata.

Reading one executes no code and needs nothing but the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fxscale.errors import PlanMismatchError, StateMismatchError
from fxscale.files import written_whole
from fxscale.plan import ScalePlan

_PLAN_KEY = "fxscale_plan"


def save_weights(
    path: str | Path, state: Mapping[str, Tensor], plan: ScalePlan | None = None
) -> None:
    """Write `state` to `path`, and `plan` with it where there is one.

    The file appears whole or not at all. Entries that share memory (tied weights) are written once
    each.

    Raises `StateMismatchError` for entries that are not tensors with data, `OSError` where the file
    cannot be written.
    """
    metadata = {"format": "pt"}
    if plan is not None:
        metadata[_PLAN_KEY] = plan.to_json()
    with written_whole(path) as partial:
        try:
            save_file(_separate(state), partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], ScalePlan | None]:
    """The state dict in a file, on the CPU, and its plan, `None` where it carries none.

    **Raises:**

    - `StateMismatchError`: the file is truncated, corrupt or not safetensors.
    - `PlanMismatchError`: the file is whole, its plan is not.
    - `FileNotFoundError`, `PermissionError`: as `open` does.
    """
    path = Path(path)
    try:
        state, metadata = read_tensors(path)
    except SafetensorError as error:
        raise StateMismatchError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}. "
            "It is truncated, corrupt or of another format: copy or write it again"
        ) from error
    plan = None
    if _PLAN_KEY in metadata:
        from fxscale.plan_json import plan_from_json

        plan = plan_from_json(metadata[_PLAN_KEY], source=f"the plan in {path}")
    return state, plan


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its metadata.

    Raises `SafetensorError` where the file is not whole, and whatever `open` raises.
    """
    with path.open("rb"):  # safetensors reports an absent file or a folder in words of its own
        pass
    with safe_open(path, framework="pt") as file:
        names = file.keys()  # a list; the file itself is no mapping
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def load_scaled_weights(path: str | Path) -> tuple[dict[str, Tensor], ScalePlan]:
    """`load_weights` for a file that must carry its plan: the weights of a pre-train network.

    Raises `PlanMismatchError` where it does not, and whatever `load_weights` raises.
    """
    state, plan = load_weights(path)
    if plan is None:
        raise PlanMismatchError(
            f"{path} carries no plan, so it is not the weights of a pre-train network: write it "
            "with `fxscale downscale`, or with "
            "`fxscale.weights.save_weights(path, small.state_dict(), small.plan)`"
        )
    return state, plan


def _separate(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two in the same memory: all that safetensors stores."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            found = "one on the meta device" if isinstance(value, Tensor) else type(value).__name__
            raise StateMismatchError(f"{key}: expected a tensor with data, found {found}")
        tensor = value.detach().to("cpu", memory_format=torch.preserve_format).contiguous()
        storage = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        separate[key] = tensor.clone() if storage in seen or not whole else tensor
        seen.add(storage)
    return separate
