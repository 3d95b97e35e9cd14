"""`OnnxReport`: what `validate_onnx` found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class OutputError:
    """One output of one batch: onnxruntime against torch.

    **Attributes:**

    - `provider`: the execution provider that computed it.
    - `batch`: `"real"` (images) or `"random"`; `batch_size` samples of it.
    - `output`, `dtype`: the output's name in the file, and its dtype.
    - `absolute`: largest absolute error over all elements; `None` if it cannot be compared.
    - `relative`: `absolute`, divided by the largest magnitude of torch's output.
    - `tolerance`: the largest `relative` that counts as equal.
    - `top1`: share of samples (pixels, where the output is a map) with the same largest class;
        `None` where there are no classes, below two of them.
    - `fault`: why it cannot be compared: another shape, or infinities in other places.
    """

    provider: str
    batch: str
    batch_size: int
    output: str
    dtype: str
    absolute: float | None
    relative: float | None
    tolerance: float
    top1: float | None
    fault: str | None = None

    @property
    def equal(self) -> bool:
        return self.relative is not None and self.relative <= self.tolerance


@dataclass(frozen=True)
class ProviderRun:
    """One onnxruntime session.

    **Attributes:**

    - `requested`: the provider asked for.
    - `used`: `session.get_providers()`, in order of preference: the first one is used wherever it
        has the operator, the others for what it has not.
    - `seconds`: per sample, the median of several runs of the largest random batch, transfers to
        the device and back included; `None` if it did not run.
    - `error`: what onnxruntime said, if it did not run.
    """

    requested: str
    used: tuple[str, ...]
    seconds: float | None
    error: str | None = None


@dataclass(frozen=True)
class Divergence:
    """Where the file first computes something else than torch, in the order of the graph.

    **Attributes:**

    - `layer`: path of the module (`"layer1.0.conv2"`), `""` for the network's own operators.
    - `operator`, `value`: the ONNX operator, and the name of its result in the file.
    - `relative`: its error, as in `OutputError`; `None` if it cannot be compared.
    """

    layer: str
    operator: str
    value: str
    relative: float | None

    def __str__(self) -> str:
        error = "another shape" if self.relative is None else f"relative error {self.relative:.1e}"
        return f"{self.operator} of layer {self.layer!r} (value {self.value!r}, {error})"


@dataclass(frozen=True)
class OnnxReport:
    """The outcome of `fxscale.validate_onnx`; `str(report)` is a summary in plain text.

    **Attributes:**

    - `path`, `opset`: the file, and its version of the ONNX operators.
    - `faults`: what `onnx.checker` and strict shape inference object to; empty if nothing.
    - `runs`: one per execution provider tried; `errors`: one per provider, batch and output.
    - `torch_seconds`: as `ProviderRun.seconds`, of the torch module on its own device.
    - `divergence`: where a difference begins; `None` if there is none, or if it was not found.
    - `notes`: what a reader should know (no real images at hand, a provider that fell back).
    """

    path: str
    opset: int
    faults: tuple[str, ...]
    runs: tuple[ProviderRun, ...]
    errors: tuple[OutputError, ...]
    torch_seconds: float
    divergence: Divergence | None
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """The file is valid, every provider ran, and every output is torch's within tolerance."""
        ran = bool(self.errors) and all(run.error is None for run in self.runs)
        return ran and not self.faults and all(error.equal for error in self.errors)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for `json.dumps`, `equal` included."""
        return {"equal": self.equal, **asdict(self)}

    def __str__(self) -> str:
        verdict = "equals torch" if self.equal else "DIFFERS from torch"
        lines = [f"{self.path} (opset {self.opset}) {verdict}"]
        lines += [f"  invalid: {fault}" for fault in self.faults]
        for run in self.runs:
            lines.append(f"  {run.requested}: {_ran(run)}")
            own = [error for error in self.errors if error.provider == run.requested]
            lines += [f"    {line}" for line in _by_output(own)]
        lines.append(f"  torch: {1e3 * self.torch_seconds:.2f} ms a sample")
        if self.divergence is not None:
            lines.append(f"  first diverges: {self.divergence}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _ran(run: ProviderRun) -> str:
    if run.error is not None:
        return f"did not run: {run.error}"
    return f"{1e3 * (run.seconds or 0):.2f} ms a sample, ran on {', '.join(run.used)}"


def _by_output(errors: list[OutputError]) -> list[str]:
    """The worst of all batches, one line an output."""
    ordered = sorted(errors, key=lambda error: error.output)
    return [_worst(name, list(group)) for name, group in groupby(ordered, lambda e: e.output)]


def _worst(name: str, errors: list[OutputError]) -> str:
    faults = [error.fault for error in errors if error.fault is not None]
    if faults:
        return f"{name}: {faults[0]}"
    absolute = max(error.absolute or 0.0 for error in errors)
    relative = max(error.relative or 0.0 for error in errors)
    agreements = [error.top1 for error in errors if error.top1 is not None]
    top1 = f", top-1 agreement at least {min(agreements):.1%}" if agreements else ""
    return (
        f"{name} ({errors[0].dtype}, {len(errors)} batches): absolute error {absolute:.1e}, "
        f"relative {relative:.1e} (tolerance {errors[0].tolerance:.0e}){top1}"
    )
