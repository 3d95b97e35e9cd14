import hashlib

import torch
from torch import nn

from fxscale.fingerprint import fingerprint, fingerprint_of_shapes


def test_known_value() -> None:
    # Pinned: plans written by one version must match models checked by the next.
    expected = hashlib.sha256(b"1:a2x3;1:b;").hexdigest()
    assert fingerprint({"b": torch.zeros(()), "a": torch.zeros(2, 3)}) == expected


def test_order_values_and_dtype_do_not_count() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    other = {"b": torch.ones(4, dtype=torch.float16), "a": torch.ones(2, 3)}
    assert fingerprint(one) == fingerprint(other)


def test_names_and_shapes_count() -> None:
    base = fingerprint({"a": torch.zeros(2, 3)})
    assert base != fingerprint({"a": torch.zeros(3, 2)})
    assert base != fingerprint({"a": torch.zeros(6)})
    assert base != fingerprint({"b": torch.zeros(2, 3)})
    assert base != fingerprint({"a": torch.zeros(2, 3), "b": torch.zeros(1)})


def test_names_cannot_be_confused_with_shapes() -> None:
    assert fingerprint_of_shapes({"a2": (3,)}) != fingerprint_of_shapes({"a": (2, 3)})
    assert fingerprint_of_shapes({"a": (12,)}) != fingerprint_of_shapes({"a": (1, 2)})


def test_a_modules_state_dict() -> None:
    module = nn.Conv2d(3, 8, 3)
    shapes = {"weight": (8, 3, 3, 3), "bias": (8,)}
    assert fingerprint(module.state_dict()) == fingerprint_of_shapes(shapes)
