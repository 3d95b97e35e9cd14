"""`fxscale train` as a user starts it on several processes, with the command's own launcher."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.fxscale.cli.small_images import write_images
from tests.processes import finish, torchrun

NETWORK = """
import atexit, os
from pathlib import Path

from fxscale.training import SmallResNet
from tests.fxscale.cli.test_torchrun import hash_of


def note(moment, network):
    path = Path(__file__).parent / f"{moment}-{os.environ['RANK']}"
    path.write_text(hash_of(network.state_dict()))


class Watched(SmallResNet):
    def load_state_dict(self, *arguments, **options):
        answer = super().load_state_dict(*arguments, **options)
        note("transition", self)
        return answer


def build(num_classes):
    network = Watched(3, num_classes, widths=(16, 32), interface=6)
    atexit.register(note, "end", network)
    return network
"""
"""A user's model that tells, on every process, which weights it gets and ends with."""


def hash_of(state: Mapping[str, Tensor]) -> str:
    """Of names and values of all weights and buffers."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.slow
def test_two_processes_go_over_together_and_end_with_the_same_weights(tmp_path: Path) -> None:
    # 46 images to train on and 18 to test on: 2 steps an epoch, and batches of 9 in the end.
    images = write_images(tmp_path / "images", train=23, test=9)
    (tmp_path / "net.py").write_text(NETWORK)
    process = torchrun(
        2,
        *("-m", "fxscale", "train", "--accelerator", "cpu", "--model", f"{tmp_path}/net.py:build"),
        *("--data", str(images), "--target-size", "24", "--pretrain-size", "17", "--epochs", "3"),
        *("--milestones", "2", "--resize-at", "1", "--batch-size", "20", "--workers", "0"),
        *("--log-every", "1", "--timeout", "60", "-o", str(tmp_path / "run")),
    )
    code, output = finish(process, 180)
    assert code == 0, output

    for moment in ("transition", "end"):
        first, second = ((tmp_path / f"{moment}-{rank}").read_text() for rank in (0, 1))
        assert first == second, moment
    saved = load_file(tmp_path / "run" / "weights.safetensors")
    assert hash_of(saved) == first  # at the end

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [epoch["size"] for epoch in epochs] == [17, 24, 24]  # told by one process alone
    assert [event["steps"] for event in events if event["event"] == "transition"] == [2]
    assert output.count("Weights: ") == 1
