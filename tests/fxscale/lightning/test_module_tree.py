from __future__ import annotations

import pytest
from torch import nn
from torch.optim.swa_utils import AveragedModel

pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

from fxscale.lightning.module_tree import outermost, replace_child  # noqa: E402


def is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential)


def test_outermost_finds_each_once_and_none_inside_another() -> None:
    inner = nn.Sequential(nn.ReLU())
    shared = nn.Sequential(inner)
    root = nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared, nn.Sequential()])})
    root["average"] = AveragedModel(shared)
    found = outermost(root, is_sequential)
    assert found[0] is shared
    assert len(found) == 3
    assert len(outermost(root, is_sequential, averages=False)) == 2


def test_replace_child_finds_every_name() -> None:
    old, new = nn.Sequential(nn.Linear(1, 1)), nn.Identity()
    root = nn.ModuleDict({"a": old, "b": nn.ModuleList([old, nn.Sequential(old)])})
    replace_child(root, old, new)
    assert root["a"] is new
    assert root["b"][0] is new
    assert root["b"][1][0] is new
    assert isinstance(old[0], nn.Linear)
