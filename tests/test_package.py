"""What holds for the package as a whole: public names, metadata, layers, documentation."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fxscale

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

PUBLIC_API = {
    "FxscaleError",
    "OnnxError",
    "OnnxReport",
    "PlanMismatchError",
    "PretrainNetwork",
    "ScalePlan",
    "SizeError",
    "StateMismatchError",
    "UnsupportedModelError",
    "ValidSize",
    "__version__",
    "downscale",
    "export_onnx",
    "move_scheduler",
    "reestimate_batchnorm",
    "register",
    "transition",
    "upscale_optimizer",
    "upscale_state",
    "valid_sizes",
    "validate_onnx",
}

LAYERS = [
    {"fxscale.__main__", "fxscale.cli"},
    {"fxscale.training", "fxscale.lightning", "fxscale.onnx"},
    {"fxscale"},  # the modules of the package itself that are not named below
    {"fxscale.passes"},
    {
        "fxscale.applied",
        "fxscale.branches",
        "fxscale.constants",
        "fxscale.contexts",
        "fxscale.cost",
        "fxscale.distances",
        "fxscale.fingerprint",
        "fxscale.models",
        "fxscale.modes",
        "fxscale.plan",
        "fxscale.plan_json",
        "fxscale.plan_layout",
        "fxscale.plan_table",
        "fxscale.portable_graph",
        "fxscale.pretrain_network",  # what the passes produce
        "fxscale.resample",
        "fxscale.spectral",
    },
    {"fxscale.errors", "fxscale.files"},
]
"""From top to bottom. Imports go down, or stay within one layer."""


def source_files() -> Iterator[tuple[str, Path]]:
    """`(module, path)` of every module of the package, as it is installed."""
    for folder, prefix in (("fxscale", ""), ("passes", "fxscale."), ("models", "fxscale.")):
        for path in sorted((ROOT / folder).rglob("*.py")):  # does not follow the two links
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            yield prefix + ".".join(parts), path


SOURCES = dict(source_files())


def imported_modules(module: str, path: Path) -> set[str]:
    """The package's own modules that this one imports when it is run, or inside its functions.

    Imports for type checkers alone do not count: they bind nothing at run time.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full, not relative"
            base = node.module or ""
            # `from fxscale.passes import trace` imports a module, `... import ScalePlan` a name.
            found |= {
                name if (name := f"{base}.{alias.name}") in SOURCES else base
                for alias in node.names
            }
    return {name for name in found if name.partition(".")[0] == "fxscale"} - {module}


def layer(module: str) -> int:
    """The place of a module in `LAYERS`, by the longest name that it starts with."""
    matches = [
        (len(name), index)
        for index, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(matches)[1]


def test_public_names_are_those_documented() -> None:
    assert set(fxscale.__all__) == PUBLIC_API
    assert len(fxscale.__all__) == len(set(fxscale.__all__))
    for name in PUBLIC_API:
        assert hasattr(fxscale, name), name


def test_public_functions_and_classes_are_documented() -> None:
    for name in PUBLIC_API - {"__version__"}:
        assert (getattr(fxscale, name).__doc__ or "").strip(), name


def test_version_is_that_of_the_metadata() -> None:
    assert fxscale.__version__ == PROJECT["project"]["version"]


def test_every_package_is_installed() -> None:
    packages = {module for module, path in SOURCES.items() if path.name == "__init__.py"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_every_module_lies_in_a_package() -> None:
    packages = {module for module, path in SOURCES.items() if path.name == "__init__.py"}
    for module, path in SOURCES.items():
        if path.name != "__init__.py":
            assert module.rpartition(".")[0] in packages, path


def test_all_extras_are_in_all() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.findall(r"[a-z]+", everything.partition("[")[2])) == set(extras) - {"all"}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_down_only(module: str) -> None:
    for imported in imported_modules(module, SOURCES[module]):
        assert layer(imported) >= layer(module), f"{module} imports {imported}, a layer above it"


def test_layers_see_an_import_that_goes_up(tmp_path: Path) -> None:
    path = tmp_path / "geometry.py"
    path.write_text("def f():\n    from fxscale.training import loop\n")
    (imported,) = imported_modules("fxscale.passes.geometry", path)
    assert layer(imported) < layer("fxscale.passes.geometry")


def test_architecture_names_modules_that_exist() -> None:
    named = re.findall(r"`((?:fxscale|passes|models)/[\w/]+\.py)`", ARCHITECTURE)
    assert named
    for path in named:
        assert (ROOT / path).is_file(), f"docs/architecture.md names {path}, which does not exist"


def test_architecture_names_every_module_of_the_compiler() -> None:
    for path in sorted((ROOT / "passes").rglob("*.py")):
        if path.name != "__init__.py":
            name = path.relative_to(ROOT).as_posix()
            assert f"`{name}`" in ARCHITECTURE, f"docs/architecture.md says nothing about {name}"


def test_files_stay_short() -> None:
    for path in SOURCES.values():
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines < 400, f"{path.relative_to(ROOT)} has {lines} lines; one idea a file"
