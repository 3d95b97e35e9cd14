"""The errors that fxscale raises: one base class, one class per kind of mistake."""

from __future__ import annotations


class FxscaleError(Exception):
    """Base class of every error that fxscale raises on purpose."""


class UnsupportedModelError(FxscaleError):
    """The compiler cannot prove that it would produce a right network, so it produces none.

    **Attributes:**

    - `reason`: what is unsupported, with the values found.
    - `remedy`: what the user can do about it.
    - `node`: name of the `torch.fx` node at which the compiler stopped, or `None`.
    - `module`: path of the module that the node belongs to (`"layer1.0.conv2"`), or `None`.
    - `source`: `file:line` of the model's code that made the node, or `None` where no code but
        torch's own did (the children of an `nn.Sequential`).
    """

    def __init__(
        self,
        reason: str,
        *,
        remedy: str,
        node: str | None = None,
        module: str | None = None,
        source: str | None = None,
    ) -> None:
        self.reason = reason
        self.remedy = remedy
        self.node = node
        self.module = module
        self.source = source
        where = in_words(node, module, source)
        where = f" {where}" if where else ""
        super().__init__(f"unsupported model{where}: {reason}. Remedy: {remedy}.")

    def __reduce__(self) -> tuple[object, ...]:
        place = (self.node, self.module, self.source)
        return (_rebuild_unsupported, (self.reason, self.remedy, *place))


def _rebuild_unsupported(
    reason: str, remedy: str, node: str | None, module: str | None, source: str | None
) -> UnsupportedModelError:
    return UnsupportedModelError(reason, remedy=remedy, node=node, module=module, source=source)


def in_words(node: str | None, module: str | None, source: str | None) -> str:
    """A place in a model: `at node 'add' in module 'layer1.0' (resnet.py:93)`."""
    parts = [f"at node {node!r}" if node else "", f"in module {module!r}" if module else ""]
    parts.append(f"({source})" if source else "")
    return " ".join(part for part in parts if part)


class SizeError(FxscaleError, ValueError):
    """An input size is impossible: not positive, larger than the target's, or a map vanishes."""


class StateMismatchError(FxscaleError):
    """A state dict has wrong, missing, surplus or non-finite entries for the plan at hand."""


class PlanMismatchError(FxscaleError):
    """A plan is corrupt, of an unknown version, or of another model."""


class ModelNotFoundError(FxscaleError):
    """A model name leads to no model: misspelt, a missing package or file, or a factory that fails.

    Raised by `fxscale.models`, never by the compiler.
    """


class OnnxError(FxscaleError):
    """ONNX: a package is missing, a network cannot be exported, or a file cannot be used."""


class CheckpointError(FxscaleError):
    """A checkpoint cannot be written, is damaged, or belongs to another run."""


class DataError(FxscaleError):
    """Training data is missing, damaged or not laid out as expected."""


class DivergenceError(FxscaleError):
    """The loss is no longer finite, so training was stopped."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use inside one of ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
