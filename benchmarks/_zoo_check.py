"""What the zoo asks of one model: five checks, and what the answers become in the record.

1. It compiles at the size that the paper's rule gives, on the meta device.
2. Its outputs have the target's structure, in both modes; every parameter that the target trains
   gets a finite gradient.
3. `upscale_state` loads strictly into the target.
4. With nothing scaled, the compiled network is the target bit for bit, in both modes.
5. Time, memory and the figures of the plan are written down.

A model that fails any of them is `wrong`, unless the compiler refused it.
"""

from __future__ import annotations

import contextlib
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxscale
from benchmarks._zoo_entries import Entry, convolves, entry, on_meta, parameters

REAL_UP_TO = 50_000_000
IDENTITY_UP_TO = 100_000_000
# Identity is checked on images of this size where the model takes them, to save time: what is
# compared is the graph, which is the same for every size.
IDENTITY_SIZE = 96
SIZE_TOLERANCE = 2.0
MISTAKES = ("the pass ", "the handler ")
"""How the reason begins where the compiler did not refuse, but failed."""
Record = dict[str, Any]


class WrongNetworkError(Exception):
    """A check failed: the compiled network is not what it has to be."""


@dataclass(frozen=True)
class Extent:
    """How much is asked: of all models or of convolving ones; everything or all but identity."""

    convolving: bool = False
    quick: bool = False


def check(name: str, extent: Extent) -> Record:
    """The checks of one model, as one JSON line of the results."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started = time.perf_counter()
    record: Record = {"name": name, "family": "", "status": "wrong", "stage": "build"}
    try:
        model = entry(name)
        record |= {"set": model.set, "family": model.family, "target_size": model.size}
        record["status"] = _checks(model, record, extent)
    except fxscale.UnsupportedModelError as error:
        record |= {"node": error.node, "module": error.module, "remedy": error.remedy}
        # Only compiling may refuse: whoever compiles at all has to come out right.
        refused = record["stage"] == "compile" and not error.reason.startswith(MISTAKES)
        record |= {"status": "refused" if refused else "wrong"}
        record["reason"] = error.reason
    except fxscale.SizeError as error:
        record |= {"status": "refused" if record["stage"] == "compile" else "wrong"}
        record["reason"] = str(error)
    except Exception as error:  # one model's failure is a line of the table
        record["reason"] = f"{type(error).__name__}: {error}"[:2000]
        record["traceback"] = traceback.format_exc()[-3000:]
    if record["stage"] == "build":
        record["status"] = "not built"
    record["total_seconds"] = time.perf_counter() - started
    return record


def _checks(model: Entry, record: Record, extent: Extent) -> str:
    skeleton = on_meta(model.build)
    size = parameters(skeleton)
    record |= {"parameters": size, "convolves": convolves(skeleton)}
    if extent.convolving and not record["convolves"]:
        record["stage"] = "left out"
        return "left out"
    torch.manual_seed(0)
    real = size <= IDENTITY_UP_TO and not extent.quick
    target = model.build() if real else skeleton
    record["checks"] = "all" if real else "outputs"
    record["stage"] = "compile"
    small = _compile_measured(target, model, record)
    record["stage"] = "state"
    _check_shapes_of_state(target, small)
    record["stage"] = "outputs"
    outputs = _compare_outputs(skeleton, small, model, record)
    if target is skeleton:
        record["stage"] = "done"
        return "ok"
    record["stage"] = "identity"
    trained = _check_identity(target, model, record)
    if size <= REAL_UP_TO:
        record["stage"] = "gradients"
        _check_training(target, small, outputs, trained)
    record["stage"] = "done"
    return "ok"


def _compile_measured(target: nn.Module, model: Entry, record: Record) -> fxscale.PretrainNetwork:
    device = next(iter(target.parameters())).device.type
    before = _reset_peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        small = _compile(target, model)
    finally:
        record["seconds"] = time.process_time() - cpu
        record["wall_seconds"] = time.perf_counter() - wall
        record["peak_memory"] = _peak_memory() - before
        record["device"] = device
    plan = small.plan
    return_values = {
        "pretrain_size": plan.pretrain_size,
        "nodes": len(small.graph.nodes),
        "convs": len(plan.convs),
        "interfaces": len(plan.interfaces),
        "pad_operators": len(plan.pad_operators),
        "max_drift": round(plan.max_drift, 3),
        "mac_ratio": round(plan.mac_ratio, 3),
    }
    record.update(return_values)
    return small


def _compile(target: nn.Module, model: Entry) -> fxscale.PretrainNetwork:
    """At the size of the paper's rule; where that says nothing, at about 0.7 of the target's."""
    try:
        return fxscale.downscale(target, target_size=model.size)
    except fxscale.SizeError:
        size = [max(32, round(0.7 * n / 32) * 32) for n in model.size]
        return fxscale.downscale(target, size, target_size=model.size)


def _compare_outputs(
    target: nn.Module, small: fxscale.PretrainNetwork, model: Entry, record: Record
) -> Any:
    """Same structure; every dimension equal, or scaled like the images (or like their area).

    Returns the pre-train network's outputs in train mode.
    """
    ratios = [b / a for a, b in zip(small.plan.target_size, small.plan.pretrain_size, strict=True)]
    devices = [next(iter(network.parameters())).device.type for network in (target, small)]
    record["outputs"] = []
    for training in (False, True):
        with torch.no_grad():
            large = target.train(training)(model.example(model.size, devices[0]))
        torch.manual_seed(1)
        with torch.set_grad_enabled(training and devices[1] != "meta"):
            images = model.example(small.plan.pretrain_size, devices[1])
            little = small.train(training)(images)
        leaves, structure = pytree.tree_flatten(_plain(large))
        others, other_structure = pytree.tree_flatten(_plain(little))
        if structure != other_structure:
            raise WrongNetworkError(f"outputs of {other_structure}, expected {structure}")
        for leaf, other in zip(leaves, others, strict=True):
            if isinstance(leaf, Tensor):
                record["outputs"].append([list(leaf.shape), list(other.shape)])
                _compare_shape(leaf.shape, other.shape, ratios)
    return little


def _plain(output: Any) -> Any:
    """Dictionaries of any class as plain ones: models name their own classes of output."""
    return dict(output) if isinstance(output, dict) else output


def _compare_shape(large: torch.Size, little: torch.Size, ratios: list[float]) -> None:
    if len(large) != len(little) or large[:1] != little[:1]:
        raise WrongNetworkError(f"an output of shape {tuple(little)}, expected like {tuple(large)}")
    area = torch.tensor(ratios).prod().item()
    for n, m in zip(large[1:], little[1:], strict=True):
        likely = [n * ratio for ratio in ratios]
        near = any(abs(m - value) <= SIZE_TOLERANCE for value in likely)
        tokens = len(large) == 3 and 0.7 * n * area <= m <= 1.4 * n * area
        if not (m == n or near or tokens):
            raise WrongNetworkError(
                f"an output of shape {tuple(little)}, expected like {tuple(large)}"
            )


def _check_shapes_of_state(target: nn.Module, small: fxscale.PretrainNetwork) -> None:
    maps = {m.key: m for m in small.plan.state}
    expected = {key: tuple(value.shape) for key, value in target.state_dict().items()}
    mapped = {key: m.target_shape for key, m in maps.items()}
    if mapped != expected:
        raise WrongNetworkError(f"the plan maps other entries: {_differences(mapped, expected)}")
    held = {key: tuple(value.shape) for key, value in small.state_dict().items()}
    planned = {key: m.pretrain_shape for key, m in maps.items()}
    if held != planned:
        raise WrongNetworkError(
            f"the pre-train network holds other entries: {_differences(held, planned)}"
        )


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    keys = [k for k in {**found, **expected} if found.get(k) != expected.get(k)]
    return ", ".join(f"{k}: {found.get(k)} for {expected.get(k)}" for k in keys[:3])


def _check_identity(target: nn.Module, model: Entry, record: Record) -> set[str]:
    """Bit for bit, outputs and buffers. Returns the parameters that the target trains."""
    size = model.size
    same = None
    if len(size) == 2 and min(size) > IDENTITY_SIZE:
        smaller = (IDENTITY_SIZE, IDENTITY_SIZE)
        with contextlib.suppress(Exception), torch.no_grad():
            target.eval()(model.example(smaller, "cpu"))
            same = fxscale.downscale(target, smaller, target_size=smaller, keep=["*"])
            size = smaller
    if same is None:
        same = fxscale.downscale(target, size, target_size=size, keep=["*"])
    record["identity_size"] = size
    # Loaded, not shared: running statistics of the one do not reach the other.
    same.load_state_dict(target.state_dict())
    images = model.example(size, "cpu")
    for training in (False, True):
        outputs = []
        for network in (target, same):
            network.train(training)
            torch.manual_seed(1)
            with torch.set_grad_enabled(training):  # decides which attention kernel runs
                outputs.append(network(images))
        _require_equal(outputs[0], outputs[1], f"training={training}")
    _require_equal(target.state_dict(), same.state_dict(), "buffers after a training step")
    _total(outputs[0]).backward()
    trained = {n for n, p in target.named_parameters() if p.grad is not None}
    target.zero_grad(set_to_none=True)
    return trained


def _require_equal(first: Any, second: Any, what: str) -> None:
    leaves, structure = pytree.tree_flatten(_plain(first))
    others, other_structure = pytree.tree_flatten(_plain(second))
    if structure != other_structure:
        raise WrongNetworkError(f"identity, {what}: {other_structure}, expected {structure}")
    for leaf, other in zip(leaves, others, strict=True):
        if not isinstance(leaf, Tensor):
            same = leaf == other
        else:
            same = torch.equal(leaf.nan_to_num(), other.nan_to_num())
        if not same:
            raise WrongNetworkError(f"identity, {what}: values differ")


def _check_training(
    target: nn.Module, small: fxscale.PretrainNetwork, outputs: Any, trained: set[str]
) -> None:
    """A finite gradient for all that the target trains; then the way back, loaded strictly."""
    _total(outputs).backward()
    gradients = {n: p.grad for n, p in small.named_parameters() if p.grad is not None}
    if missing := trained - gradients.keys():
        raise WrongNetworkError(f"no gradient for {len(missing)}, as {sorted(missing)[:3]}")
    broken = [n for n, grad in gradients.items() if not bool(torch.isfinite(grad).all())]
    if broken:
        raise WrongNetworkError(f"gradients not finite: {len(broken)}, as {broken[:3]}")
    result = target.load_state_dict(fxscale.upscale_state(small), strict=True)
    if result.missing_keys or result.unexpected_keys:
        raise WrongNetworkError(f"upscale_state does not load: {result}")


def _total(output: Any) -> Tensor:
    """A scalar that depends on every output."""
    leaves = pytree.tree_leaves(_plain(output))
    parts = [leaf.float().square().mean() for leaf in leaves if isinstance(leaf, Tensor)]
    return torch.stack(parts).sum()


def _reset_peak_memory() -> int:
    """Bytes resident now; the peak is counted from here. Linux only: elsewhere both are 0."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return next(_status("VmRSS:"), 0)


def _peak_memory() -> int:
    return next(_status("VmHWM:"), 0)


def _status(key: str) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(key):
                yield 1024 * int(line.split()[1])
