"""`Transition` under DistributedDataParallel: two processes against one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import run_together

pytest.importorskip("lightning.pytorch")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning"),
]

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.fxscale.lightning.small_fits import Data, fit
from tests.processes import leave_group

torch.set_num_threads(1)
batchnorm = sys.argv[2] == "batchnorm"
saving = ModelCheckpoint(sys.argv[1], "{epoch}", save_top_k=-1)
resume = sys.argv[3] if len(sys.argv) > 3 else None
module, over, trainer = fit(
    saving, batchnorm=batchnorm, data=Data(4, ordered=not batchnorm), resume=resume,
    strategy="ddp", devices=2, enable_checkpointing=True,
)
state = {k: v.flatten().tolist() for k, v in module.state_dict().items()}
result = {"state": state, "sizes": module.sizes, "world": trainer.world_size}
Path(sys.argv[1], f"rank-{trainer.global_rank}.json").write_text(json.dumps(result))
leave_group()  # which Lightning does not
"""


def together(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What the two processes end with."""
    folder.mkdir(exist_ok=True)
    program = folder / "program.py"
    program.write_text(PROGRAM)
    run_together(program, 2, str(folder), *arguments)
    results = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    for result in results:
        result["state"] = {k: torch.tensor(v) for k, v in result["state"].items()}
    return results


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    from tests.fxscale.lightning.small_fits import fit

    first, second = together(tmp_path, "groupnorm")
    assert first["world"] == 2
    assert first["sizes"] == second["sizes"] == [[8, 8]] * 6 + [[12, 12]] * 6
    alone, *_ = fit(batchnorm=False)
    expected = {name: values.flatten() for name, values in alone.state_dict().items()}
    torch.testing.assert_close(first["state"], expected)
    torch.testing.assert_close(second["state"], first["state"], rtol=0, atol=0)


@pytest.mark.slow
def test_batchnorm_agrees_and_a_transition_is_repeated(tmp_path: Path) -> None:
    first, second = together(tmp_path, "batchnorm")
    weights = [
        {k: v for k, v in result["state"].items() if "running" not in k}
        for result in (first, second)
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    again, _ = together(tmp_path / "again", "batchnorm", str(tmp_path / "epoch=1.ckpt"))
    assert again["sizes"] == first["sizes"][6:]  # saved before the transition, which is repeated
    torch.testing.assert_close(again["state"], first["state"])
