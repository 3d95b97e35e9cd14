"""States held against each other."""

from __future__ import annotations

from torch import Tensor


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], eps: float) -> None:
    """Same keys, shapes and dtypes; values to 16 `eps` of the largest one of each entry."""
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype), key
        error = (found[key].double() - value.double()).abs().max()
        assert error <= 16 * eps * value.double().abs().max(), key
