from __future__ import annotations

import pytest
import torch
from torch import nn

from fxscale.wrappers import match_keys, unwrap


def test_unwrap() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    assert unwrap(net) is net
    assert unwrap(nn.DataParallel(net)) is net
    assert unwrap(torch.compile(nn.DataParallel(torch.compile(net)))) is net


def test_a_child_called_module_is_no_wrapper() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    net = Holder()
    assert unwrap(net) is net


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a.weight", "a.weight"),
        ("module.a.weight", "a.weight"),
        ("_orig_mod.a.weight", "a.weight"),
        ("module._orig_mod.module.a.weight", "a.weight"),
        ("a._orig_mod.weight", "a.weight"),
        ("module.a._orig_mod.weight", "a.weight"),
        ("module.b", "module.b"),
        ("module.module.b", "module.b"),
        ("module.unknown", "unknown"),
        ("module", "module"),
    ],
)
def test_match_keys(key: str, name: str) -> None:
    assert match_keys([key], ["a.weight", "module.b"]) == {key: name}
