"""`validate_onnx`: an ONNX file, held against the torch module that it was exported from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fxscale.errors import OnnxError, first_line
from fxscale.onnx.compare import compare_output, difference, widened
from fxscale.onnx.diverge import first_divergence
from fxscale.onnx.feeds import Feed, given_feeds, inputs_of, random_feeds, real_images
from fxscale.onnx.packages import require
from fxscale.onnx.reference import Reference
from fxscale.onnx.report import Divergence, OnnxReport, OutputError, ProviderRun
from fxscale.onnx.runtime import choose_providers, open_session, run_session, seconds_per_sample
from fxscale.onnx.storage import read_model
from fxscale.wrappers import unwrap

if TYPE_CHECKING:
    import onnx


def validate_onnx(
    path: str | Path,
    module: nn.Module,
    *,
    batches: Iterable[Any] | None = None,
    providers: Sequence[str] | None = None,
) -> OnnxReport:
    """Check an ONNX file by itself, and run it in onnxruntime beside `module`.

    1. `onnx.checker` in full, and strict shape inference with data propagation.
    2. onnxruntime against torch on real images and on random batches of 1, 2 and 7 samples: per
       output the largest absolute and relative error and the top-1 agreement. An output is equal if
       its error, relative to its largest magnitude, is below the tolerance of its dtype, or ten
       times torch's own rounding error (`fxscale.onnx.compare` says how much, and why).
    3. Where an output differs, the first layer at which it does.

    A file that differs is told in the report, not raised: see `OnnxReport.equal`.

    **Arguments:**

    - `module`: the network in the file; runs in eval mode, on its own device (float16 on the
      CPU as a float32 copy), and is left as it was.
    - `batches`: real images: tensors, or tuples that begin with the network's inputs, as loaders
      give them. Default: the digits of scikit-learn, where it is installed and the network takes
      images.
    - `providers`: onnxruntime's execution providers, each run and timed by itself. Default: CUDA
      where there is a device and an onnxruntime that has it, and the CPU.

    **Raises:** `OnnxError` if packages are missing, `path` is no ONNX file, a provider is not
    installed, or `module` or `batches` do not take the file's inputs; `OSError` as `open` does.
    """
    require("onnx", "onnxruntime")
    path = Path(path)
    model = read_model(path)
    network = unwrap(module)
    inputs = inputs_of(model)
    notes: list[str] = []
    names = choose_providers(providers)
    if batches is None:
        images = real_images(inputs)
        feeds = [] if images is None else [images]
        if images is None:
            notes.append("no real images at hand (pass batches): random ones alone")
    else:
        feeds = list(given_feeds(batches, inputs))
    feeds += random_feeds(inputs)
    reference = Reference(network)
    expected = [reference.run(feed) for feed in feeds]
    last = feeds[-1]
    torch_seconds = seconds_per_sample(lambda: reference.run(last), last.batch_size)
    if reference.is_copy:
        notes.append("torch computed in float32 and rounded to float16, as processors do")
    runs: list[ProviderRun] = []
    errors: list[OutputError] = []
    for provider in names:
        run, found = _run_provider(path, provider, feeds, expected, reference)
        runs.append(run)
        errors += found
        if run.used and run.used[0] != provider:
            notes.append(f"{provider} was asked for, but {run.used[0]} ran")
    notes += _circumstances(path, feeds, expected, errors, reference)
    divergence = _locate(path, model, network, feeds, errors, notes)
    return OnnxReport(
        path=str(path),
        opset=next((o.version for o in model.opset_import if not o.domain), 0),
        faults=tuple(_static_faults(path, model)),
        runs=tuple(runs),
        errors=tuple(errors),
        torch_seconds=torch_seconds,
        divergence=divergence,
        notes=tuple(notes),
    )


def _static_faults(path: Path, model: onnx.ModelProto) -> list[str]:
    """What the file is objected to without being run."""
    from onnx import checker, shape_inference

    faults = []
    try:
        checker.check_model(str(path), full_check=True)  # by path: reads weights beside it, too
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        faults.append(f"onnx.checker: {first_line(error)}")
    try:
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        faults.append(f"shape inference: {first_line(error)}")
    return faults


def _run_provider(
    path: Path,
    provider: str,
    feeds: list[Feed],
    expected: list[list[Tensor]],
    reference: Reference,
) -> tuple[ProviderRun, list[OutputError]]:
    errors: list[OutputError] = []
    used: tuple[str, ...] = ()
    try:
        session = open_session(path, provider)
        used = tuple(session.get_providers())
        found = [run_session(session, feed) for feed in feeds]
        seconds = seconds_per_sample(lambda: run_session(session, feeds[-1]), feeds[-1].batch_size)
    except Exception as error:  # onnxruntime's exceptions share no base class
        return ProviderRun(provider, used, None, first_line(error)), errors
    names = [output.name for output in session.get_outputs()]
    for feed, ours, theirs in zip(feeds, found, expected, strict=True):
        if len(ours) != len(theirs):
            raise OnnxError(
                f"{path} has {len(ours)} outputs, and the module returns {len(theirs)} tensors: "
                "pass the module that was exported"
            )
        own = [
            compare_output(
                a, b, provider=provider, batch=feed.kind, batch_size=feed.batch_size, output=name
            )
            for name, a, b in zip(names, ours, theirs, strict=True)
        ]
        if not all(error.equal for error in own):
            roundings = reference.roundings(feed)
            dtypes = [tensor.dtype for tensor in theirs]
            own = [
                replace(error, tolerance=widened(dtype, rounding))
                for error, dtype, rounding in zip(own, dtypes, roundings, strict=True)
            ]
        errors += own
    return ProviderRun(provider, used, seconds), errors


def _circumstances(
    path: Path,
    feeds: list[Feed],
    expected: list[list[Tensor]],
    errors: list[OutputError],
    reference: Reference,
) -> Iterator[str]:
    """Of a file that comes out different, what tells a wrong file from a matter of rounding.

    How far off it is with no operator fused, and how far off torch is: on the CPU onnxruntime fuses
    BatchNorm into float16 weights, which then are rounded twice, and a network that amplifies
    rounding shows it.
    """
    wrong = next((error for error in errors if not error.equal), None)
    for feed, theirs in zip(feeds, expected, strict=True):
        if wrong is None or (feed.kind, feed.batch_size) != (wrong.batch, wrong.batch_size):
            continue
        ours = run_session(open_session(path, wrong.provider, optimized=False), feed)
        found = [difference(a, b)[1] for a, b in zip(ours, theirs, strict=True)]
        worst = max((relative for relative in found if relative is not None), default=None)
        if worst is not None:
            yield f"relative error without the runtime's graph optimizations: {worst:.1e}"
        rounding = max(reference.roundings(feed), default=0.0)
        if rounding:
            yield f"relative error that rounding alone makes in torch, estimated: {rounding:.1e}"


def _locate(
    path: Path,
    model: onnx.ModelProto,
    network: nn.Module,
    feeds: list[Feed],
    errors: list[OutputError],
    notes: list[str],
) -> Divergence | None:
    wrong = next((error for error in errors if not error.equal), None)
    if wrong is None:
        return None
    feed = next(f for f in feeds if (f.kind, f.batch_size) == (wrong.batch, wrong.batch_size))
    try:
        found = first_divergence(path, model, network, inputs_of(model), feed, wrong)
    except Exception as error:  # the report is worth more than its last line
        notes.append(f"the layer at fault was not found: {first_line(error)}")
        return None
    if found is None:
        notes.append(
            "every operator that could be compared is right by itself: the file was changed after "
            "its export, or the runtime fuses operators wrongly"
        )
    return found
