"""`ScalePlan` to JSON and back, exactly, with errors that say where a document is wrong.

The dataclasses of `fxscale.plan` are the schema: this module reads their fields and types and knows
no field by name but `version`.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite, prod
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from fxscale.errors import PlanMismatchError
from fxscale.plan import PLAN_VERSION, ConvPlan, ScalePlan, StateMap

_REMEDY = "write the plan again with `plan.save(path)` or `fxscale plan MODEL --json`"


def plan_to_json(plan: ScalePlan) -> str:
    """The plan as a JSON document in ASCII: one line per convolution, feature map, state entry.

    The `summary` at its end is for readers and scripts; `plan_from_json` skips it, because all of
    it follows from the rest.
    """
    document = _encode(plan)
    document["summary"] = {
        "target_macs": plan.target_macs,
        "pretrain_macs": plan.pretrain_macs,
        "progressive_resizing_macs": plan.progressive_resizing_macs,
        "mac_ratio": plan.mac_ratio,
        "activation_ratio": plan.activation_ratio,
        "max_drift": plan.max_drift,
    }
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"    {_dumps(row)}" for row in value)
            lines.append(f"  {_dumps(key)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {_dumps(key)}: {_dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def plan_from_json(text: str, *, source: str = "the plan") -> ScalePlan:
    """The plan in `text`, checked field by field.

    `source` is what messages call the document. Raises `PlanMismatchError` for text that is not
    JSON, another version, missing, unknown or repeated fields, wrong types, and values that
    contradict each other.
    """
    try:
        document = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        _fail(
            source,
            "",
            f"it is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            f"({len(text)} characters in all), so it is truncated or not a plan",
        )
    except (ValueError, RecursionError) as error:
        _fail(source, "", f"it cannot be read as JSON: {error}")
    if not isinstance(document, dict):
        _fail(source, "", f"expected an object, found {_describe(document)}")
    if "version" not in document:
        _fail(source, "version", "the field is missing, so this is not a plan of fxscale")
    version = document["version"]
    if type(version) is not int or version != PLAN_VERSION:
        raise PlanMismatchError(
            f"{source} has version {version!r} and this fxscale reads version {PLAN_VERSION}: "
            "make the plan again with this fxscale, or install the one that wrote it"
        )
    document.pop("summary", None)
    try:
        plan: ScalePlan = _decode(document, ScalePlan, "")
        _check(plan)
    except _FieldError as error:
        _fail(source, error.path, error.found)
    return plan


def plan_from_bytes(data: bytes, *, source: str = "the plan") -> ScalePlan:
    """`plan_from_json` for the content of a file."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        _fail(source, "", f"it is not text: byte {error.start} of {len(data)} is not UTF-8")
    return plan_from_json(text, source=source)


class _FieldError(Exception):
    def __init__(self, path: str, found: str) -> None:
        self.path = path
        self.found = found


def _fail(source: str, path: str, found: str) -> NoReturn:
    where = f" at {path}" if path else ""
    raise PlanMismatchError(f"{source} is corrupt{where}: {found}. Remedy: {_REMEDY}.") from None


def _dumps(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {repeated!r} stands twice in one object")
    return found


# Encoding -----------------------------------------------------------------------------------------


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


# Decoding -----------------------------------------------------------------------------------------


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _decode(value: Any, expected: Any, path: str) -> Any:
    """`value` as the annotation `expected` says, or `_FieldError` with its path in the document."""
    if is_dataclass(expected):
        return _decode_object(value, expected, path)
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is tuple:
        return _decode_tuple(value, arguments, path)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            allowed = ", ".join(map(repr, arguments))
            raise _FieldError(path, f"expected one of {allowed}, found {_describe(value)}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (expected,) = (a for a in arguments if a is not type(None))
        return _decode(value, expected, path)
    if expected is float and type(value) is int:
        value = float(value)
    # `type(...) is` and not `isinstance`: JSON's true is no integer.
    if type(value) is not expected:
        raise _FieldError(path, f"expected {_NOUNS[expected]}, found {_describe(value)}")
    if expected is float and not isfinite(value):
        raise _FieldError(path, f"expected a finite number, found {value}")
    return value


def _decode_object(value: Any, cls: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _FieldError(path, f"expected an object, found {_describe(value)}")
    decoded = {}
    for field in fields(cls):
        where = f"{path}.{field.name}" if path else field.name
        if field.name in value:
            decoded[field.name] = _decode(value[field.name], _hints(cls)[field.name], where)
        elif field.default is MISSING:
            raise _FieldError(where, "the field is missing")
    unknown = [name for name in value if name not in {field.name for field in fields(cls)}]
    if unknown:
        raise _FieldError(f"{path}.{unknown[0]}" if path else unknown[0], "the field is unknown")
    return cls(**decoded)


def _decode_tuple(value: Any, arguments: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _FieldError(path, f"expected a list, found {_describe(value)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise _FieldError(path, f"expected {len(arguments)} entries, found {len(value)}")
    return tuple(
        _decode(item, expected, f"{path}[{i}]")
        for i, (item, expected) in enumerate(zip(value, arguments, strict=True))
    )


_NOUNS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {len(value)} fields"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# Sense --------------------------------------------------------------------------------------------


def _check(plan: ScalePlan) -> None:
    """What types cannot say: positive sizes, equal numbers of axes, views that fit shapes."""
    rank = len(plan.target_size)
    _positive(plan.target_size, "target_size")
    _positive(plan.pretrain_size, "pretrain_size")
    _same_rank("pretrain_size", rank, plan.pretrain_size)
    if min(plan.dense_macs) < 0:
        raise _FieldError("dense_macs", f"expected no negative count, found {plan.dense_macs}")
    for i, conv in enumerate(plan.convs):
        _check_conv(conv, f"convs[{i}]")
    for i, interface in enumerate(plan.interfaces):
        path = f"interfaces[{i}]"
        _positive((interface.channels, interface.out_features), path)
        _positive(interface.target_size, f"{path}.target_size")
        _positive(interface.pretrain_size, f"{path}.pretrain_size")
        _same_rank(f"{path}.pretrain_size", len(interface.target_size), interface.pretrain_size)
    for i, feature_map in enumerate(plan.feature_maps):
        path, axes = f"feature_maps[{i}]", len(feature_map.target_size)
        _positive(feature_map.target_size, f"{path}.target_size")
        _positive(feature_map.pretrain_size, f"{path}.pretrain_size")
        _same_rank(f"{path}.pretrain_size", axes, feature_map.pretrain_size)
        _same_rank(f"{path}.drift", axes, feature_map.drift)
    for i, entry in enumerate(plan.state):
        _check_state(entry, f"state[{i}]")


def _check_conv(conv: ConvPlan, path: str) -> None:
    axes = len(conv.kernel_size)
    _positive((conv.in_channels, conv.out_channels, conv.groups), path)
    for name in ("kernel_size", "pretrain_kernel_size", "stride", "dilation"):
        _positive(getattr(conv, name), f"{path}.{name}")
        _same_rank(f"{path}.{name}", axes, getattr(conv, name))
    for i, call in enumerate(conv.calls):
        for name in ("target_input", "target_output", "pretrain_input", "pretrain_output"):
            _positive(getattr(call, name), f"{path}.calls[{i}].{name}")
            _same_rank(f"{path}.calls[{i}].{name}", axes, getattr(call, name))
        for name in ("target_padding", "pretrain_padding"):
            _same_rank(f"{path}.calls[{i}].{name}", axes, getattr(call, name))


def _check_state(entry: StateMap, path: str) -> None:
    for side in ("pretrain", "target"):
        shape, view = getattr(entry, f"{side}_shape"), getattr(entry, f"{side}_view")
        if min((*shape, *view), default=0) < 0:
            raise _FieldError(f"{path}.{side}_shape", f"expected no negative size, found {shape}")
        if prod(shape) != prod(view):
            raise _FieldError(
                f"{path}.{side}_view", f"the view {view} does not fit the shape {shape}"
            )
    _same_rank(f"{path}.target_view", len(entry.pretrain_view), entry.target_view)
    for i, part in enumerate(entry.parts):
        _check_state(part, f"{path}.parts[{i}]")
    if entry.parts:
        _check_parts(entry, path)


def _check_parts(entry: StateMap, path: str) -> None:
    """The parts lie one behind the other and fill the views."""
    axis = entry.parts_axis
    if not 0 <= axis < len(entry.target_view):
        raise _FieldError(f"{path}.parts_axis", f"the views have no axis {axis}")
    for side in ("pretrain", "target"):
        view = getattr(entry, f"{side}_view")
        shapes = [getattr(part, f"{side}_shape") for part in entry.parts]
        lengths = sum(shape[axis] for shape in shapes if len(shape) == len(view))
        others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
        if lengths != view[axis] or others != {(*view[:axis], *view[axis + 1 :])}:
            raise _FieldError(f"{path}.parts", f"the shapes {shapes} do not fill the view {view}")


def _positive(numbers: Iterable[int], path: str) -> None:
    for number in numbers:
        if number < 1:
            raise _FieldError(path, f"expected positive whole numbers, found {number}")


def _same_rank(path: str, rank: int, value: tuple[Any, ...]) -> None:
    if len(value) != rank:
        raise _FieldError(path, f"expected {rank} entries, one per axis, found {len(value)}")
