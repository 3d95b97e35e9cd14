"""Bad input: a clear error of a listed class, nothing half-written, the model untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxscale
from fxscale.errors import (
    FxscaleError,
    PlanMismatchError,
    SizeError,
    StateMismatchError,
    UnsupportedModelError,
)
from fxscale.plan import ScalePlan
from fxscale.weights import load_weights, save_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, padding=2)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.last(self.pool(self.norm(self.conv(x)))).flatten(1))


def hooks_of(model: nn.Module) -> list[Any]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return [dict(getattr(module, name)) for module in model.modules() for name in names]


@contextmanager
def assert_untouched(model: nn.Module) -> Iterator[None]:
    """Fails if parameters, buffers, gradients, modes, hooks or the random state change."""
    state = copy.deepcopy(model.state_dict())
    tensors = {name: id(p) for name, p in (*model.named_parameters(), *model.named_buffers())}
    flags = {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = hooks_of(model)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    grad, default = torch.is_grad_enabled(), torch.get_default_dtype()
    random = torch.get_rng_state()
    yield
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert tensors == {n: id(p) for n, p in (*model.named_parameters(), *model.named_buffers())}
    assert flags == {n: (p.requires_grad, p.grad) for n, p in model.named_parameters()}
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert hooks == hooks_of(model)
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert (grad, default) == (torch.is_grad_enabled(), torch.get_default_dtype())
    assert torch.equal(random, torch.get_rng_state())


def mixed(model: nn.Module) -> nn.Module:
    """In train mode but for one layer, with hooks on a leaf and on the model itself."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model.register_forward_hook(lambda module, args, output: output)
    next(m for m in model.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(
        lambda module, args, output: None
    )
    return model


def test_good_input_leaves_the_model_untouched() -> None:
    model = Net()
    model.norm.eval()
    for init in ("fan", "resample"):
        with assert_untouched(model):
            fxscale.downscale(model, 8, target_size=12, init=init)


SIZES: dict[str, tuple[Any, str]] = {
    "zero": (0, "input_size must be positive, found 0"),
    "negative": (-8, "input_size must be positive, found -8"),
    "one axis zero": ((8, 0), r"input_size must be positive, found \(8, 0\)"),
    "larger": (13, r"input_size \(13, 13\) is larger than the target's \(12, 12\)"),
    "one axis larger": ((8, 13), r"input_size \(8, 13\) is larger than the target's"),
    "too small": (2, "input size too small: at node .*; the smallest input_size that works is 3$"),
    "one pixel": (1, "input size too small: at node .*; the smallest input_size that works is 3$"),
    "three axes": ((8, 8, 8), "has 3 entries, but the model has 2 spatial axes"),
    "one axis": ((8,), "has 1 entries, but the model has 2 spatial axes"),
    "float": (8.0, "must be an int or one int per spatial axis, found 8.0"),
    "text": ("8", "must be an int or one int per spatial axis, found '8'"),
}


@pytest.mark.parametrize("case", SIZES)
def test_impossible_input_sizes(case: str) -> None:
    size, message = SIZES[case]
    model = mixed(Net())
    with assert_untouched(model), pytest.raises(SizeError, match=message):
        fxscale.downscale(model, size, target_size=12)


@pytest.mark.parametrize("size", [0, -1, (12, 12, 12), 12.5, "12"])
def test_impossible_target_sizes(size: Any) -> None:
    model = mixed(Net())
    with assert_untouched(model), pytest.raises(SizeError, match="target_size"):
        fxscale.downscale(model, 8, target_size=size)


def test_a_target_size_that_the_model_does_not_accept() -> None:
    model = mixed(Net())
    with (
        assert_untouched(model),
        pytest.raises(UnsupportedModelError, match=r"'fc'.*failed at the target size: .*size"),
    ):
        fxscale.downscale(model, 8, target_size=20)


class DataDependent(Net):
    def forward(self, x: Tensor) -> Any:
        x = super().forward(x)
        return x if x.sum() > 0 else -x


class Raises(Net):
    def forward(self, x: Tensor) -> Any:
        raise RuntimeError("broken by its author")


class NotANetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x)


class OwnOperator(Net):
    def forward(self, x: Tensor) -> Any:
        return torch.fft.fft2(self.conv(x)).real.mean((2, 3))


class NumpyInside(Net):
    def forward(self, x: Tensor) -> Any:
        return torch.from_numpy(self.conv(x).detach().numpy())


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no convolution": (NotANetwork, "NotANetwork has no convolution layer"),
    "data-dependent": (DataDependent, "Python asks for the contents of the tensor"),
    "raises": (Raises, "Raises cannot be traced: RuntimeError: broken by its author"),
    "unknown operator": (OwnOperator, "the operator .*fft2 is not known to the compiler"),
    "numpy": (NumpyInside, "unsupported model at node"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_compiled(case: str) -> None:
    factory, message = MODELS[case]
    model = mixed(factory()) if case != "no convolution" else factory()
    with assert_untouched(model), pytest.raises(UnsupportedModelError, match=message) as info:
        fxscale.downscale(model, 8, target_size=12)
    assert info.value.remedy


@pytest.mark.parametrize(
    "model", [None, "resnet34", Net, Net().state_dict(), torch.zeros(3)], ids=lambda m: str(type(m))
)
def test_what_is_not_a_module(model: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"downscale needs a torch\.nn\.Module, found"):
        fxscale.downscale(model, 8, target_size=12)


@pytest.mark.parametrize(
    "options",
    [
        {"init": "random"},
        {"kernels": "small"},
        {"keep": ["missing"]},
        {"example_inputs": ()},
        {"example_inputs": (torch.zeros(2, 3, 12),)},
        {"example_inputs": (torch.zeros(2, 1, 12, 12),)},
        {"example_inputs": {"y": torch.zeros(2, 3, 12, 12)}},
        {"example_inputs": 7},
        {"concrete_args": {"flag": True}},
        {"leaf_modules": [Net()]},
        {"leaf_modules": 7},
        {"keep": 7},
        {"keep": [7]},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    model = mixed(Net())
    given = {} if "example_inputs" in options else {"target_size": 12}
    with assert_untouched(model), pytest.raises(FxscaleError) as info:
        fxscale.downscale(model, 8, **given, **options)
    assert str(info.value)


# Plans and weights.


@pytest.fixture
def small() -> fxscale.PretrainNetwork:
    return fxscale.downscale(Net(), 8, target_size=12)


def test_a_corrupt_plan(small: fxscale.PretrainNetwork, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    small.plan.save(path)
    text = path.read_text()
    assert ScalePlan.load(path) == small.plan
    for broken in (text[: len(text) // 2], "", "{}", "[]", text.replace('"kernel"', '"kernle"', 1)):
        path.write_text(broken)
        with pytest.raises(PlanMismatchError, match=r"plan"):
            ScalePlan.load(path)


def test_a_truncated_weights_file(small: fxscale.PretrainNetwork, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(path, small.state_dict(), small.plan)
    whole = path.read_bytes()
    for keep in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(FxscaleError, match=r"small\.safetensors"):
            load_weights(path)


def test_a_checkpoint_of_another_model(small: fxscale.PretrainNetwork) -> None:
    class Wider(Net):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(2, 2)

    other = fxscale.downscale(Wider(), 8, target_size=12)
    with pytest.raises(StateMismatchError, match=r"extra\.weight: expected no such entry"):
        fxscale.upscale_state(small, other.state_dict())
    with pytest.raises(StateMismatchError, match=r"extra\.weight: expected shape \(2, 2\)"):
        fxscale.upscale_state(other, small.state_dict())
    with pytest.raises(StateMismatchError, match="it is upscaled already"):
        fxscale.upscale_state(small, Net().state_dict())
    state = {**small.state_dict(), "conv.weight": torch.full((4, 3, 3, 3), torch.nan)}
    with pytest.raises(
        StateMismatchError, match=r"conv\.weight: expected finite values, found 108"
    ):
        fxscale.upscale_state(small, state)


def test_a_plan_of_another_model(small: fxscale.PretrainNetwork) -> None:
    class Renamed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)

    target = Renamed()
    with (
        assert_untouched(target),
        pytest.raises(PlanMismatchError, match="made for another network"),
    ):
        fxscale.transition(small, target)
    with pytest.raises(PlanMismatchError, match="Net carries no plan"):
        fxscale.upscale_state(Net())


def test_a_failed_save_leaves_no_file(
    small: fxscale.PretrainNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    path.write_text("the old plan")

    def fails(*args: Any, **kwargs: Any) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="disk full"):
        small.plan.save(path)
    monkeypatch.undo()
    assert path.read_text() == "the old plan"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_wrong_dimensionality_of_the_image(small: fxscale.PretrainNetwork) -> None:
    one_d = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 3))
    with (
        assert_untouched(one_d),
        pytest.raises(SizeError, match="has 2 entries, but the model has 1 sp"),
    ):
        fxscale.downscale(one_d, (8, 8), target_size=12)
    with (
        assert_untouched(one_d),
        pytest.raises(UnsupportedModelError, match="failed at the target size: Expected 2D"),
    ):
        fxscale.downscale(one_d, 8, example_inputs=(torch.zeros(2, 3, 12, 12),))
