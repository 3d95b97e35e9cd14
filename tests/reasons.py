"""Reads every reason for a refusal, and its remedy, out of the compiler's source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    ROOT / "fxscale" / "arguments.py",
    ROOT / "fxscale" / "branches.py",
    ROOT / "fxscale" / "modes.py",
    ROOT / "fxscale" / "target_size.py",
    ROOT / "fxscale" / "valid_sizes.py",
    *sorted((ROOT / "passes").rglob("*.py")),
]
# Where the reason stands among the arguments.
PLACES = {"UnsupportedModelError": 0, "SizeError": 0, "refuse": 0, "refusal": 1, "_unsupported": 1}


@dataclass(frozen=True)
class Reason:
    """A reason and a remedy, with `…` for what is filled in."""

    file: str
    text: str
    remedy: str


def reasons() -> list[Reason]:
    """All of them, in the order of files and lines; texts that only wrap another one left out."""
    found = dict.fromkeys(reason for path in FILES for reason in _in_file(path))
    return [reason for reason in found if reason.text.strip(" …:")]


def _in_file(path: Path) -> Iterator[Reason]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        target.id: _text(node.value, {})
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant | ast.JoinedStr)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda node: node.lineno):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        place = PLACES.get(name)
        if place is None or len(call.args) <= place:
            continue
        named = [keyword.value for keyword in call.keywords if keyword.arg == "remedy"]
        remedy = [*named, *call.args[place + 1 : place + 2]]
        text = _text(call.args[place], constants)
        if name == "_unsupported":
            remedy = [ast.Name("_REMEDY")]
        file = path.relative_to(ROOT).as_posix()
        yield Reason(file, text, _text(remedy[0], constants) if remedy else "")


def _text(node: ast.expr, constants: dict[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value, constants) for value in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left, constants) + _text(node.right, constants)
    if isinstance(node, ast.Name):
        return constants.get(node.id, "…")
    return "…"
