"""Properties that hold for any network that the compiler accepts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, seed, settings
from torch import Tensor, nn

import fxscale
from tests.random_networks import IMAGE_CHANNELS, MAPS, Conv, Gate, Network, Pool, Spec
from tests.strategies import specs

BATCH = 3

# torch's own advice about speed, given once to whoever first convolves with an even kernel.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def image(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(BATCH, IMAGE_CHANNELS, *size, generator=generator).to(dtype)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def compiled(target: nn.Module, size: tuple[int, ...], spec: Spec, **options: Any) -> Any:
    # With an example: the first convolution may read several copies of the image.
    example = (image(spec.target_size, spec.dtype),)
    return fxscale.downscale(target, size, example_inputs=example, **options)


def check_downscaling(spec: Spec) -> str:
    """Only too small a size is refused; a network runs, learns and leads back to the target.

    Returns how it ended, for hypothesis's statistics.
    """
    target = Network(spec)
    before, modes = snapshot(target), [module.training for module in target.modules()]
    try:
        small = compiled(target, spec.input_size, spec)
    except fxscale.SizeError:  # of these networks, none is refused for what it is
        return "input size too small"
    finally:
        assert_same_state(target.state_dict(), before)
        assert [module.training for module in target.modules()] == modes
        assert all(parameter.grad is None for parameter in target.parameters())
    expected = target(image(spec.target_size, spec.dtype))
    small_image = image(spec.input_size, spec.dtype)
    found = small(small_image)
    assert found.shape[:2] == expected.shape[:2]
    assert found.ndim == expected.ndim
    assert found.dtype == expected.dtype
    if spec.head not in MAPS:
        assert found.shape == expected.shape
    found.square().sum().backward()
    assert [name for name, _ in small.named_parameters()] == [
        name for name, _ in target.named_parameters()
    ]
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    small.eval()
    assert small(small_image).shape == found.shape

    loaded = copy.deepcopy(target)
    loaded.load_state_dict(fxscale.upscale_state(small), strict=True)

    again = compiled(copy.deepcopy(target), spec.input_size, spec)
    assert again.plan == small.plan
    return f"compiled, pad operators: {min(len(small.plan.pad_operators), 2)}"


def check_identity(spec: Spec) -> None:
    """The same size and all kernels kept: the target itself, bit for bit."""
    target = Network(spec)
    same = compiled(target, spec.target_size, spec, keep=["*"])
    assert_same_state(same.state_dict(), target.state_dict())
    assert_same_state(fxscale.upscale_state(same), target.state_dict())
    x = image(spec.target_size, spec.dtype)
    assert torch.equal(same(x), target(x))
    assert torch.equal(same.eval()(x), target.eval()(x))
    assert same.plan.pad_operators == ()
    assert same.plan.max_drift == 0


def check_random_networks(count: int, shard: int) -> None:
    """All properties of `count` random networks; every shard draws others."""

    @seed(shard)
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(specs())
    def check(spec: Spec) -> None:
        event(check_downscaling(spec))
        check_identity(spec)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(6))
def test_300_random_networks(shard: int) -> None:
    check_random_networks(50, shard)


@pytest.mark.nightly
@pytest.mark.parametrize("shard", range(6, 106))
def test_10000_random_networks(shard: int) -> None:
    check_random_networks(100, shard)


# Networks that the properties once failed on.


def test_a_pool_in_ceil_mode_is_longer_than_its_map() -> None:
    head = Pool("max", 2, 2, ceil_mode=True)
    spec = Spec((Conv(4, (3, 3), 3), Conv(4, (3, 3), 3), head), "pool", (9, 9), (7, 7))
    check_identity(spec)
    check_downscaling(spec)


def test_a_padded_average_pool_over_volumes_wants_its_window_to_fit() -> None:
    spec = Spec((Conv(1, (1, 1, 1), 2), Pool("average", 3, 1, 1)), "pool", (8,) * 3, (3,) * 3)
    with pytest.raises(fxscale.SizeError, match="too few for a kernel of 3"):
        compiled(Network(spec), spec.input_size, spec)


def test_a_map_of_one_pixel_is_gated_by_its_own_average() -> None:
    halving = Conv(2, (3, 3), 2, 1)
    spec = Spec((halving, halving, halving, Gate(spatial=False)), "pool", (8, 8), (6, 6))
    check_identity(spec)
    check_downscaling(spec)


def test_padded_average_pools_over_short_volumes() -> None:
    spec = Spec((Conv(1, (1, 1, 1), 2), Pool("average", 3, 1, 1)), "pool", (8,) * 3, (4,) * 3)
    check_identity(spec)
    check_downscaling(spec)
