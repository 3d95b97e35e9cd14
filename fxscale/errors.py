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
    """

    def __init__(
        self, reason: str, *, remedy: str, node: str | None = None, module: str | None = None
    ) -> None:
        self.reason = reason
        self.remedy = remedy
        self.node = node
        self.module = module
        where = f" at node {node!r}" if node else ""
        where += f" in module {module!r}" if module else ""
        super().__init__(f"unsupported model{where}: {reason}. Remedy: {remedy}.")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_unsupported, (self.reason, self.remedy, self.node, self.module))


def _rebuild_unsupported(
    reason: str, remedy: str, node: str | None, module: str | None
) -> UnsupportedModelError:
    return UnsupportedModelError(reason, remedy=remedy, node=node, module=module)


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
